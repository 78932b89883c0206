#!/usr/bin/env python3
"""Writes load.csv: an invented electricity load and outdoor temperature, hourly, 90 days. Nothing measured is in it."""

import math
import random
from datetime import datetime, timedelta

random.seed(7)
begin = datetime(2025, 3, 1)
weather, noise = 0.0, 0.0
with open("load.csv", "w", encoding="utf-8", newline="\n") as out:
    out.write("time,load,temperature\n")
    for hour in range(90 * 24):
        now = begin + timedelta(hours=hour)
        weather = 0.995 * weather + random.gauss(0, 0.35)
        day = math.sin(2 * math.pi * (now.hour - 9) / 24)
        temperature = 6 + 8 * hour / (90 * 24) + 5 * day + weather
        working = now.weekday() < 5
        busy = math.exp(-((now.hour - 11) / 4.5) ** 2) + 0.8 * math.exp(-((now.hour - 19) / 2.5) ** 2)
        noise = 0.7 * noise + random.gauss(0, 0.6)
        load = 38 + (16 if working else 9) * busy - 0.5 * (temperature - 10) + noise
        # A sensor that fails now and then.
        cells = ["" if random.random() < 0.002 else f"{value:.2f}" for value in (load, temperature)]
        out.write(f"{now:%Y-%m-%d %H:%M},{cells[0]},{cells[1]}\n")

//! Parquet: flat columns of numbers, times and text, row group by row group.

use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::{Cells, Options, Raw, assemble, is_missing, unique};
use crate::Error;
use crate::date;
use crate::table::{Reading, Table};
use crate::time::DAY;

/// Values that are kept at most: repeated values take next to no space in such a file.
const MAX_VALUES: u64 = 1 << 27;
/// Bytes of dates written as text that are kept at most.
const MAX_TEXT: usize = 1 << 30;
/// Values read at once.
const BATCH: usize = 8192;
/// Texts that say whether a column holds dates.
const SAMPLE: usize = 50;

/// What the values of a column mean.
#[derive(Clone, Copy)]
enum Meaning {
    /// Numbers, to be multiplied by this.
    Number(f64),
    /// Unsigned integers.
    Unsigned,
    /// `numerator / denominator` microseconds each, since 1970.
    Time { numerator: i64, denominator: i64, utc: bool },
    /// Text.
    Text,
    /// None of these.
    Other(&'static str),
}

/// Reads the bytes of a Parquet file.
pub(super) fn read(file: &str, bytes: Vec<u8>, options: &Options) -> Result<Table, Error> {
    let format = |problem: ParquetError| Error::Format { file: file.into(), problem: problem.to_string() };
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).map_err(format)?;
    let metadata = reader.metadata();
    let schema = metadata.file_metadata().schema_descr_ptr();
    let rows = metadata.row_groups().iter().try_fold(0u64, |rows, group| {
        rows.checked_add(u64::try_from(group.num_rows()).ok()?).filter(|&rows| rows <= MAX_VALUES)
    });
    let values = rows.and_then(|rows| rows.checked_mul(schema.num_columns() as u64)).unwrap_or(u64::MAX);
    if values > MAX_VALUES {
        return Err(Error::TooLarge { file: file.into(), what: "values", found: values, limit: MAX_VALUES });
    }
    if values == 0 {
        return Err(Error::Empty { file: file.into(), found: "the file has no row" });
    }
    let rows = rows.unwrap_or(0) as usize;
    let mut names: Vec<String> = schema.columns().iter().map(|column| column.path().parts().join(".")).collect();
    let renamed = unique(&mut names);
    let mut raws = Vec::new();
    for (at, (name, column)) in names.into_iter().zip(schema.columns()).enumerate() {
        let mut into = Target::new(meaning(column), &name);
        for group in 0..metadata.num_row_groups() {
            if into.is_closed() {
                break;
            }
            let chunk = reader.get_row_group(group).and_then(|group| group.get_column_reader(at)).map_err(format)?;
            into.read(chunk, column, rows).map_err(format)?;
        }
        let cells = into.finish();
        let found = match &cells {
            Cells::Numbers(values) => values.len(),
            Cells::Texts(texts) => texts.len(),
            Cells::Times { micros, .. } => micros.len(),
            Cells::Other { .. } => rows,
        };
        if found != rows {
            let problem = format!("column `{name}` has {found} values, expected {rows}: the file is damaged");
            return Err(Error::Format { file: file.into(), problem });
        }
        raws.push(Raw { name, cells });
    }
    assemble(file, raws, options, Reading { format: "Parquet", header: true, renamed, ..Reading::default() })
}

fn meaning(column: &ColumnDescriptor) -> Meaning {
    if column.max_rep_level() > 0 {
        return Meaning::Other("a list");
    }
    let decimal = |scale: i32| Meaning::Number(10f64.powi(-scale));
    let time = |numerator, denominator, utc| Meaning::Time { numerator, denominator, utc };
    match (column.logical_type_ref(), column.converted_type(), column.physical_type()) {
        (Some(LogicalType::Timestamp(stamp)), ..) => match stamp.unit {
            TimeUnit::MILLIS => time(1000, 1, stamp.is_adjusted_to_u_t_c),
            TimeUnit::MICROS => time(1, 1, stamp.is_adjusted_to_u_t_c),
            TimeUnit::NANOS => time(1, 1000, stamp.is_adjusted_to_u_t_c),
        },
        (Some(LogicalType::Date), ..) | (None, ConvertedType::DATE, _) => time(DAY, 1, false),
        (None, ConvertedType::TIMESTAMP_MILLIS, _) => time(1000, 1, true),
        (None, ConvertedType::TIMESTAMP_MICROS, _) => time(1, 1, true),
        (_, _, Type::INT96) => time(1, 1, false),
        (Some(LogicalType::Decimal(decimals)), ..) => decimal(decimals.scale),
        (None, ConvertedType::DECIMAL, _) => decimal(column.type_scale()),
        (Some(LogicalType::Time(_)), ..) => Meaning::Other("a time of day"),
        (Some(LogicalType::Integer(kind)), ..) if !kind.is_signed => Meaning::Unsigned,
        (None, ConvertedType::UINT_32 | ConvertedType::UINT_64, _) => Meaning::Unsigned,
        (Some(LogicalType::String), ..) | (None, ConvertedType::UTF8, _) => Meaning::Text,
        (_, _, Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY) => Meaning::Other("binary data"),
        (_, _, Type::BOOLEAN | Type::INT32 | Type::INT64 | Type::FLOAT | Type::DOUBLE) => Meaning::Number(1.0),
    }
}

/// Where the values of a column go.
struct Target<'a> {
    meaning: Meaning,
    name: &'a str,
    numbers: Vec<f64>,
    times: Vec<Option<i64>>,
    texts: Vec<String>,
    bytes: usize,
    other: Option<(usize, String)>,
}

impl<'a> Target<'a> {
    fn new(meaning: Meaning, name: &'a str) -> Target<'a> {
        let other = match meaning {
            Meaning::Other(what) => Some((1, what.to_string())),
            _ => None,
        };
        Target { meaning, name, numbers: Vec::new(), times: Vec::new(), texts: Vec::new(), bytes: 0, other }
    }

    fn is_closed(&self) -> bool {
        self.other.is_some()
    }

    fn finish(mut self) -> Cells {
        if matches!(self.meaning, Meaning::Text) && self.texts.len() < SAMPLE {
            self.judge_texts();
        }
        match (self.other, self.meaning) {
            (Some((row, found)), _) => Cells::Other { row, found },
            (None, Meaning::Time { utc, .. }) => Cells::Times { micros: self.times, utc },
            (None, Meaning::Text) => Cells::Texts(self.texts),
            (None, _) => Cells::Numbers(self.numbers),
        }
    }

    fn read(&mut self, chunk: ColumnReader, column: &ColumnDescriptor, rows: usize) -> Result<(), ParquetError> {
        use ColumnReader as C;
        let levels = column.max_def_level();
        match chunk {
            C::BoolColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(f64::from(u8::from(x)))),
            C::Int32ColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| match to.meaning {
                Meaning::Unsigned => to.number(f64::from(x as u32)),
                _ => to.integer(i64::from(x)),
            }),
            C::Int64ColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| match to.meaning {
                Meaning::Unsigned => to.number(x as u64 as f64),
                _ => to.integer(x),
            }),
            C::Int96ColumnReader(chunk) => self.each(chunk, levels, rows, |to, x| to.integer(x.to_micros())),
            C::FloatColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(f64::from(x))),
            C::DoubleColumnReader(chunk) => self.each(chunk, levels, rows, |to, &x| to.number(x)),
            C::ByteArrayColumnReader(chunk) => self.each(chunk, levels, rows, Target::bytes),
            C::FixedLenByteArrayColumnReader(chunk) => self.each(chunk, levels, rows, |to, x| to.bytes(x)),
        }
    }

    /// Every value of a chunk, missing ones included.
    fn each<T: DataType>(
        &mut self,
        mut chunk: ColumnReaderImpl<T>,
        max_level: i16,
        rows: usize,
        mut push: impl FnMut(&mut Self, &T::T),
    ) -> Result<(), ParquetError> {
        let (mut levels, mut values) = (Vec::new(), Vec::new());
        loop {
            levels.clear();
            values.clear();
            let wanted = (max_level > 0).then_some(&mut levels);
            let (records, _, _) = chunk.read_records(BATCH, wanted, None, &mut values)?;
            if records == 0 || self.is_closed() {
                return Ok(());
            }
            if self.numbers.len() + self.times.len() + self.texts.len() + records > rows {
                return Err(ParquetError::General(format!("column `{}` has more than {rows} values", self.name)));
            }
            let mut values = values.iter();
            for at in 0..records {
                let there = max_level == 0 || levels.get(at) == Some(&max_level);
                match if there { values.next() } else { None } {
                    Some(value) => push(self, value),
                    None => self.missing(),
                }
            }
        }
    }

    fn missing(&mut self) {
        match self.meaning {
            Meaning::Time { .. } => self.times.push(None),
            Meaning::Text => self.text(String::new()),
            _ => self.numbers.push(f64::NAN),
        }
    }

    fn number(&mut self, value: f64) {
        match self.meaning {
            Meaning::Number(scale) => self.numbers.push(value * scale),
            _ => self.numbers.push(value),
        }
    }

    fn integer(&mut self, value: i64) {
        let Meaning::Time { numerator, denominator, .. } = self.meaning else { return self.number(value as f64) };
        let micros = i64::try_from(i128::from(value) * i128::from(numerator) / i128::from(denominator)).ok();
        self.times.push(micros.filter(|&micros| crate::time::civil(micros).is_some()));
    }

    fn bytes(&mut self, value: &ByteArray) {
        match self.meaning {
            Meaning::Text => self.text(String::from_utf8_lossy(value.data()).into_owned()),
            _ => match big_endian(value.data()) {
                Some(value) => self.number(value),
                None => self.other = Some((self.numbers.len() + 1, "a number of more than 16 bytes".into())),
            },
        }
    }

    fn text(&mut self, text: String) {
        if self.is_closed() {
            return;
        }
        self.bytes += text.len();
        self.texts.push(text);
        if self.texts.len() == SAMPLE {
            self.judge_texts();
        }
        if self.bytes > MAX_TEXT {
            self.other = Some((self.texts.len(), "more than a gigabyte of text".into()));
        }
    }

    /// Texts that are no dates are dropped but for an example.
    fn judge_texts(&mut self) {
        if !date::is_date_column(self.name, self.texts.iter().map(String::as_str)) {
            let example = self.texts.iter().enumerate().find(|(_, text)| !is_missing(text));
            self.other = Some(example.map_or((1, String::new()), |(row, text)| (row + 1, text.clone())));
            self.texts = Vec::new();
        }
    }
}

/// A decimal's digits: two's complement, the highest byte first.
fn big_endian(bytes: &[u8]) -> Option<f64> {
    if bytes.is_empty() || bytes.len() > 16 {
        return None;
    }
    let fill = if bytes[0] >= 0x80 { 0xff } else { 0 };
    let mut whole = [fill; 16];
    whole[16 - bytes.len()..].copy_from_slice(bytes);
    Some(i128::from_be_bytes(whole) as f64)
}

//! Requests side by side give what they give alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use anser_engine::sampling::Sampling;
use anser_engine::{Error, Event, Executor, Finish, LoadOptions, Model, Request, Scheduler, Synthetic, Version, load};

fn model(exec: &Executor) -> Box<dyn Model> {
    load(Arc::new(Synthetic::tiny(Version::V7, 9)), exec, &LoadOptions::default()).unwrap()
}

fn request(seed: u64, prompt: Vec<u32>, max_tokens: usize) -> Request {
    let sampling = Sampling { seed: Some(seed), ..Sampling::default() };
    Request { prompt, state: None, sampling, max_tokens, stop_tokens: vec![0] }
}

/// Runs all requests at most `max_batch` at a time: tokens and final state of each.
fn run(requests: &[Request], max_batch: usize, threads: usize) -> Vec<(Vec<u32>, Vec<f32>, String)> {
    let mut exec = Executor::new(threads);
    let model = model(&exec);
    let mut scheduler = Scheduler::new(&*model, max_batch);
    let ids: Vec<_> = requests.iter().map(|r| scheduler.submit(r.clone()).unwrap()).collect();
    let (mut texts, mut ends) = (BTreeMap::<_, Vec<u32>>::new(), BTreeMap::new());
    while !scheduler.is_idle() {
        for event in scheduler.step(&mut exec).unwrap() {
            match event {
                Event::Token { id, choice } => {
                    assert!(choice.logprob <= 0.0);
                    texts.entry(id).or_default().push(choice.token);
                }
                Event::Finished { id, finish, state } => {
                    ends.insert(id, (state.values().to_vec(), format!("{finish:?}")));
                }
            }
        }
    }
    ids.iter()
        .map(|id| {
            let (state, finish) = ends.remove(id).unwrap();
            (texts.remove(id).unwrap_or_default(), state, finish)
        })
        .collect()
}

#[test]
fn same_seed_same_text_whatever_the_batch() {
    let requests: Vec<Request> = (0..9)
        .map(|i| request(i, (0..1 + 37 * i as u32).map(|t| (t * 7 + i as u32) % 64).collect(), 5 + i as usize))
        .collect();
    let alone = run(&requests, 1, 1);
    assert_eq!(run(&requests, 4, 2), alone);
    assert_eq!(run(&requests, 100, 3), alone);
    for (i, (tokens, _, finish)) in alone.iter().enumerate() {
        match finish.as_str() {
            "Length" => assert_eq!(tokens.len(), 5 + i),
            "Stop" => assert_eq!(tokens.last(), Some(&0)),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_final_state_has_read_all_but_the_last_token() {
    let mut exec = Executor::new(1);
    let model = model(&exec);
    let (tokens, state, _) = run(&[request(4, vec![5, 6], 6)], 1, 1).remove(0);
    let mut expected = model.new_state();
    let mut read = vec![5, 6];
    read.extend(&tokens[..tokens.len() - 1]);
    crate::run(&*model, &mut exec, &read, &mut expected);
    assert_eq!(state, expected.values());
}

#[test]
fn refused_cancelled_and_empty() {
    let mut exec = Executor::new(1);
    let model = model(&exec);
    let mut scheduler = Scheduler::new(&*model, 2);
    assert!(matches!(scheduler.submit(request(1, vec![], 3)), Err(Error::EmptyPrompt)));
    assert!(matches!(scheduler.submit(request(1, vec![64], 3)), Err(Error::TokenOutOfRange { token: 64, .. })));
    let nothing = scheduler.submit(request(1, vec![1], 0)).unwrap();
    let cancelled = scheduler.submit(request(2, vec![1], 50)).unwrap();
    let waiting = scheduler.submit(request(3, vec![1], 50)).unwrap();
    let events = scheduler.step(&mut exec).unwrap();
    assert!(events.iter().any(|e| matches!(e, Event::Finished { id, finish: Finish::Length, .. } if *id == nothing)));
    for id in [cancelled, waiting] {
        assert!(matches!(scheduler.cancel(id), Some(Event::Finished { finish: Finish::Cancelled, .. })));
        assert!(scheduler.cancel(id).is_none());
    }
    assert!(scheduler.is_idle());
}

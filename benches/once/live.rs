//! Messages that come at a steady pace, and how long after each was sent its output can be read.

use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::broker::{Js, NatsServer};
use millstream_bench::{Failed, Size, Streams};
use tokio::sync::oneshot;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::{Contestant, PATIENCE};

/// Messages a second.
pub(crate) const RATE: u64 = 5_000;

/// Of the first second nothing is measured.
const WARM: u64 = RATE;

/// Six seconds are enough.
const MOST: u64 = 7 * RATE;

pub(crate) async fn measure(
    server: &NatsServer,
    size: Size,
    contestant: Contestant,
    run: usize,
    latency: &mut Histogram<u64>,
) -> Result<(), Failed> {
    let messages = size.messages.min(MOST);
    let streams = Streams::empty(server, Size { messages, ..size }).await?;
    streams.fresh_output(contestant.takes()).await?;
    let mut outputs = streams.follow_output("follow").await?;
    let (url, (tell, mut ended)) = (server.url(), oneshot::channel());
    // On a thread of its own, as it would run beside those that send and read.
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(Failed::from).and_then(|runtime| {
            runtime.block_on(async { timeout(PATIENCE, contestant.run(&url, messages, run)).await? })
        });
        drop(tell.send(done));
    });
    let js = Js::new(streams.connection().clone());
    while js.stream("IN").await?.state.consumer_count == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    let mut sent = Vec::new();
    let (mut ticks, mut heard) = (interval(Duration::from_millis(1)), 0);
    while heard < messages {
        tokio::select! {
            biased;
            output = timeout(PATIENCE, outputs.next()) => {
                let output = output?.ok_or("the connection is closed")?;
                let number = output.payload.get(..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
                let at: &Instant = number.and_then(|number: usize| sent.get(number)).ok_or("no output of an input")?;
                heard += 1;
                if number >= Some(WARM.min(messages / 5) as usize) {
                    latency.record(at.elapsed().as_micros() as u64)?;
                }
            }
            done = &mut ended, if !ended.is_terminated() => done??,
            _ = ticks.tick(), if (sent.len() as u64) < messages => {
                for number in (sent.len() as u64..messages).take((RATE / 1_000) as usize) {
                    sent.push(Instant::now());
                    streams.connection().publish(streams.message(number)).await?;
                }
            }
        }
    }
    if !ended.is_terminated() {
        ended.await??;
    }
    thread.join().map_err(|_| "the contestant panicked")?;
    streams.check_output().await
}

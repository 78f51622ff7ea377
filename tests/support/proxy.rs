//! [`LossyProxy`]: a TCP proxy that does to connections what a bad network does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Forwards connections to a port of this machine, and loses or delays what they carry as it is told.
#[derive(Debug)]
pub struct LossyProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    // Goes up with every order to lose; a connection that has seen a lower number begins to swallow.
    orders: AtomicU64,
    bytes: AtomicU64,
    swallowed: AtomicU64,
    cuts: AtomicU64,
    pull_cuts: AtomicU64,
    delivery_cuts: AtomicU64,
    // Connections that are open and have pulled.
    pulling: AtomicU64,
    connections: AtomicU64,
    // Bytes of deliveries still to be swallowed on links that stay.
    deliveries: AtomicU64,
    delay_millis: AtomicU64,
    refuses: AtomicBool,
    // What is to be held when a client sends it, and on how many connections it is.
    held: watch::Sender<Option<&'static [u8]>>,
    holding: AtomicU64,
    wrong_lasts: AtomicU64,
}

impl LossyProxy {
    pub async fn before(server: u16) -> LossyProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if accepting.refuses.load(Ordering::SeqCst) {
                    continue;
                }
                accepting.connections.fetch_add(1, Ordering::SeqCst);
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    tokio::spawn(forward(client, server, Arc::clone(&accepting)));
                }
            }
        });
        LossyProxy { port, shared }
    }

    /// From now on no other connection is made.
    pub fn refuse(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
    }

    /// How many connections were made.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Swallows the next `bytes` from the server on every connection that is open, and cuts each then, or half a second
    /// after the first.
    pub fn lose(&self, bytes: u64) {
        self.shared.bytes.store(bytes, Ordering::SeqCst);
        self.shared.orders.fetch_add(1, Ordering::SeqCst);
    }

    /// Swallows the next messages that consumers deliver, about `bytes` of them, whole: every connection stays, and the
    /// client notices nothing.
    pub fn lose_deliveries(&self, bytes: u64) {
        self.shared.deliveries.store(bytes, Ordering::SeqCst);
    }

    /// Whether deliveries are still to be swallowed.
    pub fn is_losing_deliveries(&self) -> bool {
        self.shared.deliveries.load(Ordering::SeqCst) > 0
    }

    /// From now on everything takes so long, either way.
    pub fn delay(&self, delay: Duration) {
        self.shared.delay_millis.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// From now on, on each connection on which the client sends these words, they and what follows stay under way until
    /// [`release`](Self::release).
    pub fn hold(&self, words: &'static [u8]) {
        self.shared.held.send_replace(Some(words));
    }

    /// On how many connections something is held.
    pub fn holding(&self) -> u64 {
        self.shared.holding.load(Ordering::SeqCst)
    }

    /// What is held goes on.
    pub fn release(&self) {
        self.shared.held.send_replace(None);
    }

    /// How often the server has refused a write because its last sequence was another one.
    pub fn wrong_lasts(&self) -> u64 {
        self.shared.wrong_lasts.load(Ordering::SeqCst)
    }

    /// How many connections have ended that had swallowed something.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// Of the [`cuts`](Self::cuts), those of connections that had pulled.
    pub fn pull_cuts(&self) -> u64 {
        self.shared.pull_cuts.load(Ordering::SeqCst)
    }

    /// Of the [`pull_cuts`](Self::pull_cuts), those that lost deliveries.
    pub fn delivery_cuts(&self) -> u64 {
        self.shared.delivery_cuts.load(Ordering::SeqCst)
    }

    /// How many of the connections that are open have pulled messages of a consumer.
    pub fn pulling(&self) -> u64 {
        self.shared.pulling.load(Ordering::SeqCst)
    }

    /// How many bytes were swallowed.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    let (mut from_client, to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let pulls = Arc::new(AtomicBool::new(false));
    let up = tokio::spawn({
        let (to_server, pulls, shared) =
            (delayed(to_server, Arc::clone(&shared)), Arc::clone(&pulls), Arc::clone(&shared));
        async move {
            let mut buffer = vec![0; 16 << 10];
            while let Some(read) = read_some(&mut from_client, &mut buffer).await {
                if has(&read, b".CONSUMER.MSG.NEXT.") && !pulls.swap(true, Ordering::SeqCst) {
                    shared.pulling.fetch_add(1, Ordering::SeqCst);
                }
                if shared.held.borrow().is_some_and(|words| has(&read, words)) {
                    shared.holding.fetch_add(1, Ordering::SeqCst);
                    let _ = shared.held.subscribe().wait_for(Option::is_none).await;
                    shared.holding.fetch_sub(1, Ordering::SeqCst);
                }
                if to_server.send((Instant::now(), read)).await.is_err() {
                    break;
                }
            }
        }
    });
    let to_client = delayed(to_client, Arc::clone(&shared));
    let seen = shared.orders.load(Ordering::SeqCst);
    let (mut buffer, mut swallowed) = (vec![0; 16 << 10], 0);
    let (mut cut_at, mut frames, mut delivered) = (None, Vec::new(), false);
    loop {
        // A connection with little to lose does not stay half dead for ever.
        let deadline = async {
            match cut_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = read_some(&mut from_server, &mut buffer) => read,
            () = deadline => None,
        };
        let Some(read) = read else { break };
        if shared.orders.load(Ordering::SeqCst) > seen {
            swallowed += read.len() as u64;
            shared.swallowed.fetch_add(read.len() as u64, Ordering::SeqCst);
            delivered |= has(&read, b" $JS.ACK.");
            cut_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(500));
            if swallowed >= shared.bytes.load(Ordering::SeqCst) {
                break;
            }
            continue;
        }
        shared.wrong_lasts.fetch_add(u64::from(has(&read, b"\"err_code\":10071")), Ordering::SeqCst);
        frames.extend_from_slice(&read);
        if to_client.send((Instant::now(), pass(&mut frames, &shared))).await.is_err() {
            break;
        }
    }
    up.abort();
    // Only when that has ended is it clear whether it has counted this one.
    let _ = up.await;
    let (pulled, cut) = (pulls.load(Ordering::SeqCst), swallowed > 0);
    shared.pulling.fetch_sub(u64::from(pulled), Ordering::SeqCst);
    shared.delivery_cuts.fetch_add(u64::from(delivered), Ordering::SeqCst);
    shared.cuts.fetch_add(u64::from(cut), Ordering::SeqCst);
    shared.pull_cuts.fetch_add(u64::from(cut && pulled), Ordering::SeqCst);
}

fn has(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

async fn read_some(from: &mut (impl AsyncRead + Unpin), buffer: &mut [u8]) -> Option<Vec<u8>> {
    match from.read(buffer).await {
        Ok(0) | Err(_) => None,
        Ok(read) => Some(buffer[..read].to_vec()),
    }
}

/// Writes what it is given, each part as long after its time as the proxy delays.
fn delayed(mut to: OwnedWriteHalf, shared: Arc<Shared>) -> mpsc::Sender<(Instant, Vec<u8>)> {
    let (sender, mut parts) = mpsc::channel::<(Instant, Vec<u8>)>(4_096);
    tokio::spawn(async move {
        while let Some((at, part)) = parts.recv().await {
            tokio::time::sleep_until(at + Duration::from_millis(shared.delay_millis.load(Ordering::SeqCst))).await;
            if to.write_all(&part).await.is_err() {
                break;
            }
        }
    });
    sender
}

/// Takes whole frames off the front, and gives those that are not to be swallowed.
fn pass(frames: &mut Vec<u8>, shared: &Shared) -> Vec<u8> {
    let (mut passed, mut at) = (Vec::new(), 0);
    while let Some((len, is_delivery)) = frame(&frames[at..]) {
        let left = shared.deliveries.load(Ordering::SeqCst);
        if is_delivery && left > 0 {
            shared.deliveries.store(left.saturating_sub(len as u64), Ordering::SeqCst);
            shared.swallowed.fetch_add(len as u64, Ordering::SeqCst);
        } else {
            passed.extend_from_slice(&frames[at..at + len]);
        }
        at += len;
    }
    frames.drain(..at);
    passed
}

/// The length of the frame of the client protocol that `bytes` begins with, if it is whole, and whether it is a message
/// that a consumer delivers.
fn frame(bytes: &[u8]) -> Option<(usize, bool)> {
    let line = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let words: Vec<&str> = std::str::from_utf8(&bytes[..line]).unwrap().split_ascii_whitespace().collect();
    // `MSG <subject> <sid> [reply] <bytes>`, and `HMSG` with the bytes of the headers before those of all.
    let (named, payload) = match words.as_slice() {
        ["MSG", _, _, rest @ .., bytes] | ["HMSG", _, _, rest @ .., _, bytes] => (rest.first(), Some(bytes)),
        _ => (None, None),
    };
    let payload = payload.map_or(0, |bytes| bytes.parse::<usize>().unwrap() + 2);
    let len = line + 2 + payload;
    (bytes.len() >= len).then(|| (len, named.is_some_and(|reply| reply.starts_with("$JS.ACK."))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_deliveries_are_swallowed() {
        let shared = Shared::default();
        shared.deliveries.store(1, Ordering::SeqCst);
        let mut frames =
            b"PING\r\nMSG in.a 3 $JS.ACK.S.c.1.1.1.1.1 2\r\nhi\r\nMSG _INBOX.a 1 2\r\nok\r\nHMSG i 1 $JS".to_vec();
        assert_eq!(pass(&mut frames, &shared), b"PING\r\nMSG _INBOX.a 1 2\r\nok\r\n");
        assert_eq!((frames.as_slice(), shared.deliveries.load(Ordering::SeqCst)), (&b"HMSG i 1 $JS"[..], 0));
        frames.extend_from_slice(b".ACK.x 12 14\r\nNATS/1.0\r\n\r\nhi\r\n");
        assert_eq!(frame(&frames), Some((frames.len(), true)));
    }
}

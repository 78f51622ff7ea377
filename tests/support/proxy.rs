//! [`LossyProxy`]: a TCP proxy that swallows what a server sends, and then cuts the connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Forwards connections to a port of this machine. Told to, it swallows so many bytes from the server on each
/// connection and cuts it then, or half a second after the first: what a broken network does to deliveries that are on
/// their way.
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
}

impl LossyProxy {
    pub async fn before(server: u16) -> LossyProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await {
                    tokio::spawn(forward(client, server, Arc::clone(&accepting)));
                }
            }
        });
        LossyProxy { port, shared }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Swallows the next `bytes` from the server on every connection that is open, and cuts each then.
    pub fn lose(&self, bytes: u64) {
        self.shared.bytes.store(bytes, Ordering::SeqCst);
        self.shared.orders.fetch_add(1, Ordering::SeqCst);
    }

    /// How many connections were cut after they had swallowed as much as they were told.
    pub fn cuts(&self) -> u64 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// How many bytes were swallowed.
    pub fn swallowed(&self) -> u64 {
        self.shared.swallowed.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, server: TcpStream, shared: Arc<Shared>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let seen = shared.orders.load(Ordering::SeqCst);
    let up = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    });
    let (mut buffer, mut swallowed) = (vec![0; 16 << 10], 0);
    let mut cut_at = None;
    loop {
        // A connection with little to lose does not stay half dead for ever.
        let deadline = async {
            match cut_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let read = tokio::select! {
            read = from_server.read(&mut buffer) => read.unwrap_or(0),
            () = deadline => 0,
        };
        if read == 0 {
            break;
        }
        if shared.orders.load(Ordering::SeqCst) > seen {
            swallowed += read as u64;
            cut_at.get_or_insert_with(|| Instant::now() + Duration::from_millis(500));
            shared.swallowed.fetch_add(read as u64, Ordering::SeqCst);
            if swallowed >= shared.bytes.load(Ordering::SeqCst) {
                shared.cuts.fetch_add(1, Ordering::SeqCst);
                break;
            }
        } else if to_client.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            break;
        }
    }
    up.abort();
}

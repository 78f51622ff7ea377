//! Free ports for servers that we start.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// Below what Linux (32,768) and others (49,152) give to outgoing connections and to listeners that ask for any port.
/// One that the system gave would be free for all between our look and the server's start, and again while a server is
/// down between its death and its restart on the same port.
const FIRST: u32 = 15_000;
const PORTS: u32 = 16_000;

/// A port on 127.0.0.1 that nobody listens on, and that this process has not given before. Other processes begin at
/// another place.
///
/// # Errors
/// The loopback interface takes no listener.
pub fn free_port() -> io::Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(u32::MAX);
    let _ = NEXT.compare_exchange(u32::MAX, anywhere(), Ordering::Relaxed, Ordering::Relaxed);
    for _ in 0..PORTS {
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(FIRST + next % PORTS).unwrap_or_default();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn anywhere() -> u32 {
    u32::try_from(RandomState::new().hash_one(std::process::id()) % u64::from(PORTS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_never_one_that_is_taken() {
        let first = free_port().unwrap();
        let taken = TcpListener::bind(("127.0.0.1", first)).unwrap();
        let more: Vec<u16> = (0..100).map(|_| free_port().unwrap()).collect();
        assert!(!more.contains(&taken.local_addr().unwrap().port()));
        let distinct: std::collections::HashSet<&u16> = more.iter().collect();
        assert_eq!(distinct.len(), more.len());
        assert!(more.iter().all(|port| u32::from(*port) < FIRST + PORTS), "{more:?}");
    }
}

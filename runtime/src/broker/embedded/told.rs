//! [`Told`]: a value of which those who wait for a change hear in the order in which they came.
//!
//! Tokio's own channel wakes its receivers in an order of chance, and with it a simulation would not be the same twice. So
//! each has a channel of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// A value, and who is told when it changes.
pub(super) struct Told<T>(Mutex<Listed<T>>);

struct Listed<T> {
    value: T,
    watchers: Vec<watch::Sender<T>>,
}

impl<T: Copy + PartialEq> Told<T> {
    pub(super) fn new(value: T) -> Self {
        Told(Mutex::new(Listed { value, watchers: Vec::new() }))
    }

    pub(super) fn get(&self) -> T {
        self.listed().value
    }

    /// A receiver for one who waits; its clones would wait in no order.
    pub(super) fn watch(&self) -> watch::Receiver<T> {
        let mut listed = self.listed();
        listed.watchers.retain(|watcher| !watcher.is_closed());
        let (sender, receiver) = watch::channel(listed.value);
        listed.watchers.push(sender);
        receiver
    }

    /// Changes the value, and tells all if it is another then.
    pub(super) fn change(&self, change: impl FnOnce(T) -> T) {
        let mut listed = self.listed();
        let value = change(listed.value);
        if value != listed.value {
            listed.value = value;
            listed.watchers.iter().for_each(|watcher| _ = watcher.send(value));
        }
    }

    /// Nothing that is done under this lock can stop half-way.
    fn listed(&self) -> MutexGuard<'_, Listed<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn all_hear_of_a_change_in_the_order_in_which_they_came() {
        let (told, heard) = (Told::new(1), Arc::<Mutex<Vec<usize>>>::default());
        let listen = |number| {
            let (mut receiver, heard) = (told.watch(), Arc::clone(&heard));
            tokio::spawn(async move {
                receiver.wait_for(|value| *value == 2).await.unwrap();
                heard.lock().unwrap().push(number);
            })
        };
        let listeners: Vec<_> = (0..20).map(listen).collect();
        tokio::task::yield_now().await;
        told.change(|value| value);
        told.change(|_| 2);
        for listener in listeners {
            listener.await.unwrap();
        }
        assert_eq!(*heard.lock().unwrap(), (0..20).collect::<Vec<_>>());
        assert_eq!(told.get(), 2);
    }
}

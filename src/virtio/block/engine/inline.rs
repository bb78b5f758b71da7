//! Operations that are done when they are submitted.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::{Backend, Completion, Engine, Operation};

/// Blocks whoever submits.
pub(in crate::virtio::block) struct Inline {
    backend: Arc<dyn Backend>,
    done: Vec<Completion>,
}

impl Inline {
    pub(in crate::virtio::block) fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend, done: Vec::new() }
    }
}

impl Engine for Inline {
    fn submit(&mut self, token: u64, operation: Operation) {
        let result = self.backend.run(operation);
        self.done.push(Completion { token, result });
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn completions(&mut self, sink: &mut Vec<Completion>) -> io::Result<()> {
        sink.append(&mut self.done);
        Ok(())
    }

    fn wait_all(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn pending(&self) -> usize {
        self.done.len()
    }

    fn name(&self) -> &'static str {
        "sync"
    }
}

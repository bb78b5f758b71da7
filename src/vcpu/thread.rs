//! One thread a vCPU.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};

use crate::bus::lock;
use crate::hypervisor::{KickHandle, Seat, Vcpu};
use crate::timeline::{Phase, Timeline};

use super::run::{Buses, End, run};
use super::{Control, Desired, ExitCounter};

/// A vCPU's thread, which waits until its machine's [`Control`] lets it run.
pub struct VcpuThread {
    thread: JoinHandle<()>,
}

/// Says that the thread is gone, and ends the machine should it have gone without a reason.
struct Leaving<'a> {
    control: &'a Control,
    kicks: &'a KickHandle,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.kicks.detach();
        self.control.leave();
    }
}

impl VcpuThread {
    /// Starts the thread of vCPU `index`, which holds the vCPU while it may run.
    ///
    /// # Errors
    /// The host gives no more threads.
    pub fn spawn(
        vcpu: Arc<Mutex<impl Vcpu + Send + 'static>>,
        index: usize,
        buses: Arc<Buses>,
        control: Arc<Control>,
        timeline: Arc<Timeline>,
        exits: Arc<ExitCounter>,
    ) -> io::Result<Self> {
        let body = move || {
            let unkicked = KickHandle::default();
            let kicks = control.kick_handle(index).unwrap_or(&unkicked);
            kicks.attach();
            let _leaving = Leaving { control: &control, kicks };
            while control.park() == Desired::Running {
                timeline.mark(Phase::FirstRun);
                let mut vcpu = lock(&vcpu);
                let mut seat = Seat::take(&mut *vcpu);
                // A kick from before found nobody seated.
                if control.desired() != Desired::Running {
                    continue;
                }
                match run(&mut seat, &buses, &control, &exits) {
                    End::Asked => {}
                    end => control.finish(end),
                }
            }
        };
        Builder::new().name(format!("vcpu{index}")).spawn(body).map(|thread| Self { thread })
    }

    /// Whether this is the calling thread, as when a device drops its own machine.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.thread.thread().id() == std::thread::current().id()
    }

    /// Waits for the thread to end; false if it panicked, or is the calling thread.
    #[must_use]
    pub fn join(self) -> bool {
        !self.is_current() && self.thread.join().is_ok()
    }
}

//! A machine that does what it is asked.

use std::os::fd::{AsRawFd, RawFd};
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Answer, Fields, Job, Machine, Name, Progress, Request, Server, save};
use crate::config::MachineConfig;
use crate::machine::{Error, Outcome};
use crate::virtio::Command;

/// What a machine is, to those who ask: what does not change while it lives.
#[derive(Clone, Debug)]
pub struct About {
    name: Option<Name>,
    cpus: u32,
    memory_bytes: u64,
    kernel: Option<PathBuf>,
    since: Instant,
}

impl About {
    /// A machine of this configuration, which begins now.
    #[must_use]
    pub fn new(name: Option<Name>, config: &MachineConfig) -> Self {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        Self {
            name,
            cpus: config.cpus,
            memory_bytes: config.memory.bytes(),
            kernel: config.kernel.as_ref().map(absolute),
            since: Instant::now(),
        }
    }

    fn info(&self, state: &str) -> Info {
        Info {
            name: self.name.clone(),
            pid: std::process::id(),
            state: state.to_owned(),
            cpus: self.cpus,
            memory_bytes: self.memory_bytes,
            uptime_ms: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            kernel: self.kernel.as_ref().map(|path| path.to_string_lossy().into_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}

/// What a machine says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Its name, if it has one.
    pub name: Option<Name>,
    /// The process that runs it.
    pub pid: u32,
    /// Running, paused, or what is being done to it.
    pub state: String,
    /// How many vCPUs it has.
    pub cpus: u32,
    /// Its memory.
    pub memory_bytes: u64,
    /// How long it has been there.
    pub uptime_ms: u64,
    /// Its kernel; none is the embedded guest.
    pub kernel: Option<String>,
    /// The version of the program that runs it.
    pub version: String,
}

/// A machine that does what it is asked, or is away while something long is done to it.
pub struct Controlled {
    about: About,
    held: Held,
}

#[allow(clippy::large_enum_variant, reason = "there is one of it, which is moved a few times in its life")]
enum Held {
    Here(Machine),
    Lent(Job),
}

impl Controlled {
    /// This machine.
    #[must_use]
    pub fn new(about: About, machine: Machine) -> Self {
        Self { about, held: Held::Here(machine) }
    }

    /// Does what is asked. Without an answer it has been begun, and [`Self::attend`] gives that.
    #[must_use]
    pub fn answer(self, request: Request) -> (Self, Option<Answer>) {
        let Self { about, held } = self;
        let (held, answer) = match held {
            Held::Here(machine) => machine.answer(request, &about),
            Held::Lent(job) => {
                let answer = answer_meanwhile(&job, &request, &about);
                (Held::Lent(job), Some(answer))
            }
        };
        (Self { about, held }, answer)
    }

    /// Answers those who have asked at this server. What takes long is given up when the one who asked
    /// for it goes.
    #[must_use]
    pub fn serve(self, server: &mut Server) -> Self {
        let this = server.serve(self, Self::answer);
        if let Held::Lent(job) = &this.held
            && !server.is_awaited()
        {
            job.cancel();
        }
        this
    }

    /// Looks how far it is with what takes long, and tells it whoever waits at this server.
    #[must_use]
    pub fn attend(self, server: Option<&mut Server>) -> Self {
        let Self { about, held } = self;
        let job = match held {
            Held::Lent(job) => job,
            held @ Held::Here(_) => return Self { about, held },
        };
        let progress = job.progress();
        let (held, answer) = match progress {
            Some((done, total)) => (Held::Lent(job), Answer::Progress { done, total }),
            None => {
                let (machine, answer) = job.finish();
                (Held::Here(machine), answer)
            }
        };
        let this = Self { about, held };
        match server {
            Some(server) => {
                server.tell(&answer);
                // The one who waited may have asked more.
                this.serve(server)
            }
            None => this,
        }
    }

    /// Gives the machine away for something that takes long, whose answer [`Self::attend`] gives; `what`
    /// is its state meanwhile, in a word. The answer that comes at once says that it cannot be begun.
    #[must_use]
    pub fn lend(
        self,
        what: &'static str,
        work: impl FnOnce(Machine, &Progress) -> (Machine, Answer) + Send + 'static,
    ) -> (Self, Option<Answer>) {
        let Self { about, held } = self;
        let (held, answer) = match held {
            Held::Here(machine) => machine.lend(what, work),
            Held::Lent(job) => {
                let answer = busy(&job);
                (Held::Lent(job), Some(answer))
            }
        };
        (Self { about, held }, answer)
    }

    /// Whether something long is being done.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        matches!(self.held, Held::Lent(_))
    }

    /// A descriptor that is readable once the machine has ended or, while it [is busy](Self::is_busy),
    /// when there is something to [attend](Self::attend) to; none where nothing is left to end.
    #[must_use]
    pub fn event(&self) -> Option<RawFd> {
        match &self.held {
            Held::Here(machine) => machine.ended(),
            Held::Lent(job) => Some(job.as_raw_fd()),
        }
    }

    /// Waits until the machine ends, as [`RunningMachine::wait`] does; one that is paused goes on
    /// first, and what takes long is given up.
    ///
    /// [`RunningMachine::wait`]: crate::machine::RunningMachine::wait
    ///
    /// # Errors
    /// It could not go on after a pause.
    pub fn wait(self) -> Result<Outcome, Error> {
        match self.held {
            Held::Here(machine) => machine.wait(),
            Held::Lent(job) => {
                job.cancel();
                job.finish().0.wait()
            }
        }
    }
}

/// What can be answered while the machine is away.
fn answer_meanwhile(job: &Job, request: &Request, about: &About) -> Answer {
    match request {
        Request::Info => Answer::fields(&about.info(job.what())),
        Request::Stop => {
            job.stop();
            Answer::done()
        }
        _ => busy(job),
    }
}

fn busy(job: &Job) -> Answer {
    Answer::Error(format!("the machine is {}: ask again when that is done", job.what()))
}

impl Machine {
    fn answer(self, request: Request, about: &About) -> (Held, Option<Answer>) {
        let (id, command) = match request {
            Request::Balloon { target, id } => (id, Command::BalloonTarget(target)),
            Request::Hinting { on, id } => (id, Command::BalloonHinting(on)),
            Request::Resized { id } => (id, Command::DiskResized),
            Request::Window { id, columns, rows } => (id, Command::ConsoleResize { columns, rows }),
            Request::Metrics { id } => {
                let answer = self.metrics(&id).map_or_else(Answer::Error, Answer::Ok);
                return (Held::Here(self), Some(answer));
            }
            Request::Stats => {
                let answer = self.stats().map_or_else(Answer::Error, |stats| Answer::fields(&stats));
                return (Held::Here(self), Some(answer));
            }
            Request::Info => {
                let answer = Answer::fields(&about.info(self.state()));
                return (Held::Here(self), Some(answer));
            }
            Request::Snapshot(wanted) => {
                return self.lend("saving", move |machine, progress| save::save(machine, &wanted, progress));
            }
            Request::Pause => return self.pause().acknowledge(),
            Request::Resume => return self.resume().acknowledge(),
            Request::Stop => {
                if let Some(stop) = self.stop_handle() {
                    stop.stop();
                }
                return (Held::Here(self), Some(Answer::done()));
            }
        };
        let answer = self.ask_device(&id, |device| device.command(command));
        (Held::Here(self), Some(answer.map_or_else(Answer::Error, |()| Answer::done())))
    }

    fn lend(
        self,
        what: &'static str,
        work: impl FnOnce(Machine, &Progress) -> (Machine, Answer) + Send + 'static,
    ) -> (Held, Option<Answer>) {
        match Job::start(self, what, work) {
            Ok(job) => (Held::Lent(job), None),
            Err((machine, error)) => {
                let answer = Answer::Error(format!("there is no thread to do it on: {error}"));
                (Held::Here(*machine), Some(answer))
            }
        }
    }

    fn metrics(&self, id: &str) -> Result<Fields, String> {
        let numbers = self.ask_device(id, |device| device.metrics())?;
        Ok(numbers.into_iter().map(|(name, value)| (name.to_owned(), json!(value))).collect())
    }

    fn stats(&self) -> Result<Value, String> {
        match self {
            Self::Running(machine) => {
                let devices: Result<Fields, String> = machine
                    .device_names()
                    .map(|id| Ok((id.to_owned(), Value::Object(self.metrics(id)?))))
                    .collect();
                let mut stats = json!(machine.exits());
                if let Value::Object(fields) = &mut stats {
                    fields.insert("devices".to_owned(), Value::Object(devices?));
                }
                Ok(stats)
            }
            Self::Paused(machine) => Ok(json!(machine.exits())),
            Self::Ended(_) | Self::Failed(_) => Err("the machine has ended".to_owned()),
        }
    }

    fn acknowledge(self) -> (Held, Option<Answer>) {
        let answer = self.acknowledged();
        (Held::Here(self), Some(answer))
    }
}

//! Carries out what a shard's engine decides: turns mail and outcomes into inputs, and effects into exchanges, records and
//! reads. Holds no decision of its own.

use crate::attempters::{Attempters, Job};
use crate::core::{Core, Mail};
use crate::doors::Doors;
use crate::emit;
use crate::traces::AttemptTrace;
use bellwire_api::backend::{EndpointAnswer, Tried};
use bellwire_delivery::{Push, Unshaped, reshape_payload};
use bellwire_engine::{Effect, Ended, Engine, Input, Operational, Start, Token, Undurable};
use bellwire_model::{
    Directive, EndpointKey, FailureClass, Kind, Message, OrganisationId, Outcome, Sequence, Timestamp,
};
use bellwire_plugin::{InFlight, Plugins, Ran, Response};
use bellwire_shape::Scripts;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::spawn_local;

/// Runs one engine, on its shard's thread.
pub(crate) struct Pump {
    core: Arc<Core>,
    shard: usize,
    engine: Engine,
    push: Rc<Push>,
    attempters: Rc<Attempters>,
    plugins: Rc<Plugins>,
    /// Where what plugins emit comes in.
    doors: Arc<Doors>,
    /// What this thread's own tasks hand in between two turns.
    outcomes: Rc<RefCell<Outcomes>>,
    /// Emptied in every turn; kept for their room.
    effects: Vec<Effect>,
    writes: Vec<Undurable>,
    mail: Vec<Mail>,
    /// The watermark that the intake was told last.
    told: Option<Sequence>,
    stopping: bool,
}

#[derive(Default)]
struct Outcomes {
    ended: Vec<Ended>,
    inputs: Vec<Input>,
}

impl Pump {
    pub(crate) fn new(doors: Arc<Doors>, engine: Engine, push: Push, plugins: Plugins) -> Self {
        let push = Rc::new(push);
        let attempters = Rc::new(Attempters::new(Rc::clone(&push)));
        Pump {
            core: Arc::clone(&doors.core),
            shard: doors.shard,
            engine,
            push,
            attempters,
            plugins: Rc::new(plugins),
            doors,
            outcomes: Rc::default(),
            effects: Vec::new(),
            writes: Vec::new(),
            mail: Vec::new(),
            told: None,
            stopping: false,
        }
    }

    /// One input outside the loop: at start.
    pub(crate) fn step(&mut self, input: Input) {
        self.engine.step(self.core.clock.now(), input, &mut self.effects);
        self.carry_out();
    }

    /// Runs until it was told to stop and nothing is in flight.
    pub(crate) async fn run(mut self) {
        let mailbox = Arc::clone(&self.core.mailboxes[self.shard]);
        loop {
            self.turn();
            if self.stopping && self.engine.all_ended() {
                mailbox.close();
                return;
            }
            let wait = self.engine.wake_at().map_or(Duration::from_secs(3_600), |at| self.core.clock.until(at));
            tokio::select! {
                biased;
                () = mailbox.notify.notified() => {}
                // Whole milliseconds, rounded up: the timer is no finer, and waking early would only turn in circles.
                () = tokio::time::sleep(wait + Duration::from_micros(100)) => self.step(Input::Tick),
            }
        }
    }

    /// Takes everything that has come in since the last turn.
    fn turn(&mut self) {
        let mailbox = Arc::clone(&self.core.mailboxes[self.shard]);
        let mut mail = mailbox.take(std::mem::take(&mut self.mail));
        for mail in mail.drain(..) {
            match mail {
                Mail::Committed(batch, committed) => {
                    mailbox.settle(batch, &Ok(()));
                    self.engine.step(self.core.clock.now(), Input::Committed(committed), &mut self.effects);
                }
                Mail::Refused(batch, why) => mailbox.settle(batch, &Err(why)),
                Mail::Tell(input) => {
                    self.told(&input);
                    self.engine.step(self.core.clock.now(), input, &mut self.effects);
                }
                Mail::Passed(answer) => drop(answer.send(())),
                Mail::Throttled(endpoint, answer) => {
                    let _ = answer.send(self.engine.throttled_since(endpoint, self.core.clock.engine()));
                }
                Mail::Try(plugin, message, answer) => {
                    let plugins = Rc::clone(&self.plugins);
                    // One of an application that is gone is answered nothing.
                    let Some(own) = organisation(&self.core, &message) else { continue };
                    spawn_local(async move { drop(answer.send(try_plugin(&plugins, &own, &plugin, &message).await)) });
                }
                Mail::Lanes(answer) => drop(answer.send(self.engine.lanes())),
                #[cfg(test)]
                Mail::Panic => panic!("as the test asked"),
            }
        }
        self.mail = mail;
        let (ended, inputs) = {
            let mut outcomes = self.outcomes.borrow_mut();
            (std::mem::take(&mut outcomes.ended), std::mem::take(&mut outcomes.inputs))
        };
        let now = self.core.clock.now();
        if !ended.is_empty() {
            self.core.metrics.ended(&ended);
            self.engine.step(now, Input::Ended(ended), &mut self.effects);
        }
        for input in inputs {
            self.engine.step(now, input, &mut self.effects);
        }
        self.carry_out();
    }

    fn told(&mut self, input: &Input) {
        match input {
            Input::Stop => {
                self.stopping = true;
                self.plugins.hurry();
            }
            Input::EndpointGone(key) => self.push.forget(*key),
            _ => {}
        }
    }

    fn carry_out(&mut self) {
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Start(start) => self.start(start),
                Effect::Write(write) => self.writes.push(write),
                Effect::Lease { endpoint, fifo, until, limit } => self.lease(endpoint, fifo, until, limit),
                Effect::NextDue { endpoint, fifo } => self.next_due(endpoint, fifo),
                Effect::Notice(notice) => crate::observe::notice(&self.core, notice),
                Effect::Occasion(occasion) => {
                    let told = Operational::of_occasion(&self.core.catalogue.read(), &occasion);
                    self.writes.extend(told.map(|told| Undurable::Operational(Box::new(told))));
                }
            }
        }
        self.effects = effects;
        // Also when nothing was decided: a shard that does not say where it stands holds the watermark of all back.
        let watermark = self.engine.watermark();
        if self.writes.is_empty() && Some(watermark) == self.told {
            return;
        }
        self.told = Some(watermark);
        let wrote = !self.writes.is_empty();
        self.core.intake.lock().record(self.shard, self.core.clock.engine(), self.writes.drain(..), watermark);
        if wrote {
            self.core.bell.ring_softly();
        }
    }

    fn start(&self, start: Start) {
        let handing = Handing {
            core: Arc::clone(&self.core),
            shard: self.shard,
            outcomes: Rc::clone(&self.outcomes),
            token: start.token,
            outcome: None,
        };
        if start.number == 1 {
            let core = &self.core;
            core.metrics.started(core.clock.engine().since(start.message.sequence().time()));
        }
        let trace = self.core.tracer.as_ref().map(|tracer| tracer.attempt(&start.message));
        if let Kind::Plugin(_) = start.endpoint.kind {
            let (plugins, doors, push) = (Rc::clone(&self.plugins), Arc::clone(&self.doors), Rc::clone(&self.push));
            spawn_local(async move {
                let outcome = run_plugin(&plugins, push.scripts(), &doors, &start, &handing).await;
                traced(&handing.core, trace, &start, &outcome);
                handing.done(outcome);
            });
            return;
        }
        self.attempters.make(Job { start, trace, handing });
    }

    fn lease(&self, endpoint: EndpointKey, fifo: bool, until: Timestamp, limit: usize) {
        self.ask(Input::Leased { endpoint, rows: None }, move |core| {
            let rows = match core.store.lease_due(endpoint, fifo, until, limit) {
                Ok(rows) => Some(rows.into_iter().map(|(waiting, message)| (waiting, Arc::new(message))).collect()),
                Err(error) => {
                    tracing::error!(%error, endpoint.key = endpoint.0, "due deliveries could not be read");
                    None
                }
            };
            Input::Leased { endpoint, rows }
        });
    }

    fn next_due(&self, endpoint: EndpointKey, fifo: bool) {
        self.ask(Input::NextDue { endpoint, due: None }, move |core| {
            let due = core.store.next_due(endpoint, fifo).map(|head| head.map(|h| h.due));
            if let Err(error) = &due {
                tracing::error!(%error, endpoint.key = endpoint.0, "the waiting room could not be read");
            }
            Input::NextDue { endpoint, due: due.ok() }
        });
    }

    /// Asks the store on a thread that may block; the answer comes with a later turn, `unanswered` if that thread fails.
    fn ask(&self, unanswered: Input, question: impl FnOnce(&Core) -> Input + Send + 'static) {
        let (outcomes, core, shard) = (Rc::clone(&self.outcomes), Arc::clone(&self.core), self.shard);
        spawn_local(async move {
            let asked = Arc::clone(&core);
            let answer = tokio::task::spawn_blocking(move || question(&asked)).await.unwrap_or_else(|error| {
                tracing::error!(%error, "a reading thread failed");
                unanswered
            });
            outcomes.borrow_mut().inputs.push(answer);
            core.mailboxes[shard].notify.notify_one();
        });
    }
}

/// Whose message it is.
fn organisation(core: &Core, message: &Message) -> Option<OrganisationId> {
    let catalogue = core.catalogue.read();
    catalogue.application(message.application).map(|entry| entry.application.organisation.clone())
}

/// An attempt of the kind that is made here.
async fn run_plugin(
    plugins: &Plugins,
    scripts: &Scripts,
    doors: &Doors,
    start: &Start,
    in_flight: &dyn InFlight,
) -> Outcome {
    let (wall, begun) = (crate::clock::wall(), std::time::Instant::now());
    let Kind::Plugin(plugin) = &start.endpoint.kind else { unreachable!("only plugins are run") };
    let mut ran = match reshape_payload(&start.endpoint, &start.message, scripts).await {
        Ok(shaped) => {
            let message = shaped.as_ref().unwrap_or(&start.message);
            match organisation(&doors.core, message) {
                Some(own) => plugins.run(&own, start.endpoint.key, plugin, message, start.number, in_flight).await,
                None => Ran::broken(FailureClass::Unsendable, "the application is gone"),
            }
        }
        Err(Unshaped { class: FailureClass::Cancelled, text }) => Ran::dropped(text),
        Err(Unshaped { class, text }) => Ran::broken(class, text),
    };
    let emitted = std::mem::take(&mut ran.emitted);
    if let Err(why) = emit::accept(doors, start, emitted).await {
        ran = ran.failing(why);
    }
    let outcome = ran.outcome(wall, begun.elapsed());
    crate::observe::attempt(start, &outcome);
    match ran.response() {
        None => answered(&doors.core, start, &outcome),
        Some(response) => {
            let message = start.message.sequence();
            if doors.core.answers.awaits(message) {
                let Response { status, headers, body } = response.clone();
                let endpoint = start.endpoint.key;
                let answer = EndpointAnswer { endpoint, responds: true, status: Some(status), headers, body };
                doors.core.answers.give(message, answer);
            }
        }
    }
    outcome
}

/// Takes an attempt down in its message's trace.
pub(crate) fn traced(core: &Core, trace: Option<AttemptTrace>, start: &Start, outcome: &Outcome) {
    if let (Some(tracer), Some(trace)) = (&core.tracer, trace) {
        tracer.ended(trace, start, outcome);
    }
}

/// A run that leaves nothing behind but what the plugin itself does.
async fn try_plugin(
    plugins: &Plugins,
    own: &OrganisationId,
    plugin: &bellwire_model::Plugin,
    message: &Message,
) -> Tried {
    /// The lane of those who try something out.
    const TRYING: EndpointKey = EndpointKey(u32::MAX);
    let (wall, begun) = (crate::clock::wall(), std::time::Instant::now());
    let ran = plugins.run(own, TRYING, plugin, message, 1, &()).await;
    let duration = begun.elapsed();
    Tried {
        answer: ran.answer.name(),
        output: ran.outcome(wall, duration).body,
        duration,
        emitted: ran.emitted.into_iter().map(|emitted| (emitted.event_type, emitted.payload)).collect(),
    }
}

/// Tells who waits for what endpoints answer.
pub(crate) fn answered(core: &Core, start: &Start, outcome: &Outcome) {
    let message = start.message.sequence();
    let is_over = outcome.is_cancelled() || outcome.directive == Some(Directive::AbortMessage);
    let status = outcome.result.ok();
    if (status.is_some() || is_over) && core.answers.awaits(message) {
        let body = outcome.body.clone();
        // What a plugin wrote while it ran is for its owner.
        let responds =
            matches!(start.endpoint.kind, Kind::Push) && status.is_some_and(|status| (200..300).contains(&status));
        let endpoint = start.endpoint.key;
        core.answers.give(message, EndpointAnswer { endpoint, responds, status, headers: Vec::new(), body });
    }
}

/// Hands an attempt's outcome in, whatever becomes of its task: an engine waits for every one that it started.
pub(crate) struct Handing {
    pub(crate) core: Arc<Core>,
    shard: usize,
    outcomes: Rc<RefCell<Outcomes>>,
    token: Token,
    outcome: Option<Outcome>,
}

impl Handing {
    pub(crate) fn done(mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    fn tell(&self, input: Input) {
        self.outcomes.borrow_mut().inputs.push(input);
        self.core.mailboxes[self.shard].notify.notify_one();
    }
}

impl InFlight for Handing {
    fn rests(&self) {
        self.tell(Input::Rests(self.token));
    }

    fn goes_on(&self) {
        self.tell(Input::GoesOn(self.token));
    }
}

impl Drop for Handing {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| Outcome {
            started_at: crate::clock::wall(),
            duration: Duration::ZERO,
            result: Err(FailureClass::Unsendable),
            body: "the attempt failed on our side".into(),
            retry_after: None,
            directive: None,
            url: None,
            phases: Default::default(),
        });
        self.outcomes.borrow_mut().ended.push(Ended { token: self.token, outcome });
        self.core.mailboxes[self.shard].notify.notify_one();
    }
}

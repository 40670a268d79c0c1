// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU loop of a mutex and a condition variable, right as it stands, and with one of the bugs put
//! in that such loops have. Nothing of this crate is in it but the kit's trait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use vm_rendezvous::kit::{EntryHook, MeetOp, Op, Trouble, VcpuLoop};

use super::Guest;

/// What is wrong with a loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    None,
    /// A signal without `immediate_exit`: gone if it lands between the last look and the guest.
    SignalOnly,
    /// Suspend sets the flag, kicks, and does not wait.
    NoAcknowledgement,
    /// Acknowledgements are messages, and each suspend takes as many as there are vCPUs.
    CountedAcknowledgements,
    /// A suspended vCPU polls its flag.
    Spins,
    /// Replies come through one queue per vCPU, and belong to whoever takes the next.
    SharedReplies,
    /// Suspend says that it is late, but not who.
    NamesNobody,
    /// Suspend names the first vCPU, whoever it was.
    NamesTheFirst,
    /// Suspend waits as long as it takes.
    NoLimit,
    /// What is queued when the loop ends stays there.
    LeavesWaiters,
    /// A request to a loop that has ended runs on its caller.
    RunsAfterTheEnd,
    /// A request runs on its caller.
    RunsOnTheCaller,
    /// A meeting does not hold the others.
    MeetsOneByOne,
    /// A meeting runs on the first vCPU only.
    MeetsOnlyTheFirst,
    /// Each meeting waits for all vCPUs inside a request, and two meetings wait for each other.
    MeetsInRequests,
    /// The loop looks at its queue each fourth time it leaves the guest; whoever waits kicks again.
    LooksRarely,
    /// Resume panics.
    Panics,
}

#[derive(Default)]
struct Inbox {
    jobs: VecDeque<(Op, Arc<Reply>)>,
    want: Want,
    suspended: bool,
}

/// What a vCPU is to do next; the end is not taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Want {
    #[default]
    Run,
    Suspend,
    End,
}

#[derive(Default)]
struct Reply {
    /// `None`: it will never run.
    answers: Mutex<VecDeque<Option<u64>>>,
    came: Condvar,
}

#[derive(Default)]
struct Cpu {
    inbox: Mutex<Inbox>,
    changed: Condvar,
    guest: Guest,
    /// For [`Bug::SharedReplies`].
    replies: Arc<Reply>,
}

struct Shared {
    bug: Bug,
    cpus: Vec<Cpu>,
    /// For [`Bug::CountedAcknowledgements`].
    acknowledged: Reply,
}

#[derive(Default, PartialEq)]
enum Overtaking {
    #[default]
    No,
    /// A meeting is half sent out: one that begins now overtakes it.
    Possible,
    Done,
}

pub(crate) struct Field {
    shared: Arc<Shared>,
    /// Whether the VM is suspended; held by whoever changes that.
    suspended: Mutex<bool>,
    over: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// For [`Bug::MeetsInRequests`]: whether a meeting has begun, and whether another overtook it.
    met: AtomicBool,
    overtaking: (Mutex<Overtaking>, Condvar),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits on `condition` until `done` answers something, or the deadline.
fn wait<'a, T, R>(
    condition: &Condvar,
    mut guard: MutexGuard<'a, T>,
    deadline: Option<Instant>,
    mut done: impl FnMut(&mut T) -> Option<R>,
) -> Option<R> {
    loop {
        if let Some(result) = done(&mut guard) {
            return Some(result);
        }
        guard = match deadline {
            None => condition
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner),
            Some(deadline) => {
                let left = deadline.checked_duration_since(Instant::now())?;
                let (guard, _) = condition
                    .wait_timeout(guard, left)
                    .unwrap_or_else(PoisonError::into_inner);
                guard
            }
        };
    }
}

impl Reply {
    fn give(&self, answer: Option<u64>) {
        lock(&self.answers).push_back(answer);
        self.came.notify_all();
    }

    fn take(&self, deadline: Instant) -> Option<Option<u64>> {
        wait(
            &self.came,
            lock(&self.answers),
            Some(deadline),
            VecDeque::pop_front,
        )
    }
}

impl Cpu {
    fn draw(&self, bug: Bug, change: impl FnOnce(&mut Inbox)) {
        change(&mut lock(&self.inbox));
        if bug == Bug::SignalOnly {
            self.guest.signal();
        } else {
            self.guest.kick();
        }
        self.changed.notify_all();
    }
}

fn vcpu(shared: &Shared, v: usize) {
    let (cpu, bug) = (&shared.cpus[v], shared.bug);
    let mut turns = 0_u32;
    loop {
        let mut inbox = lock(&cpu.inbox);
        let ends_at_once = bug == Bug::LeavesWaiters && inbox.want == Want::End;
        let looks = bug != Bug::LooksRarely || turns.is_multiple_of(4);
        if looks
            && !ends_at_once
            && let Some((op, reply)) = inbox.jobs.pop_front()
        {
            drop(inbox);
            reply.give(Some(op()));
            continue;
        }
        if inbox.want == Want::End {
            break;
        }
        if inbox.want == Want::Suspend {
            if !std::mem::replace(&mut inbox.suspended, true) {
                cpu.changed.notify_all();
                shared.acknowledged.give(None);
            }
            if bug == Bug::Spins {
                drop(inbox);
                std::hint::spin_loop();
            } else {
                drop(cpu.changed.wait(inbox));
            }
            continue;
        }
        inbox.suspended = false;
        drop(inbox);
        cpu.guest.at_door();
        cpu.guest.run();
        turns += 1;
    }
    let mut inbox = lock(&cpu.inbox);
    inbox.suspended = true;
    let left = std::mem::take(&mut inbox.jobs);
    drop(inbox);
    cpu.changed.notify_all();
    if bug != Bug::LeavesWaiters {
        left.into_iter().for_each(|(_, reply)| reply.give(None));
    }
}

impl Field {
    pub(crate) fn new(vcpus: usize, bug: Bug) -> Self {
        let shared = Arc::new(Shared {
            bug,
            cpus: (0..vcpus).map(|_| Cpu::default()).collect(),
            acknowledged: Reply::default(),
        });
        let start = |v| {
            let shared = shared.clone();
            let body = move || vcpu(&shared, v);
            Builder::new()
                .name(format!("vcpu-{v}"))
                .spawn(body)
                .unwrap()
        };
        let threads = (0..vcpus).map(start).collect();
        Self {
            shared,
            suspended: Mutex::new(false),
            over: AtomicBool::new(false),
            threads: Mutex::new(threads),
            met: AtomicBool::new(false),
            overtaking: Default::default(),
        }
    }

    fn set(&self, want: Want) {
        for cpu in &self.shared.cpus {
            cpu.draw(self.shared.bug, |inbox| {
                if inbox.want != Want::End {
                    inbox.want = want;
                }
            });
        }
    }

    /// Asks all vCPUs out of the guest and waits until they are.
    fn stop_all(&self, limit: Duration) -> Result<(), Trouble> {
        let bug = self.shared.bug;
        self.set(Want::Suspend);
        if bug == Bug::NoAcknowledgement {
            return Ok(());
        }
        let deadline = Instant::now() + limit;
        for (v, cpu) in (0..).zip(&self.shared.cpus) {
            let in_time = if bug == Bug::CountedAcknowledgements {
                self.shared.acknowledged.take(deadline).map(drop)
            } else {
                let deadline = (bug != Bug::NoLimit).then_some(deadline);
                let done = |inbox: &mut Inbox| inbox.suspended.then_some(());
                wait(&cpu.changed, lock(&cpu.inbox), deadline, done)
            };
            if in_time.is_none() {
                self.set(Want::Run);
                return Err(match bug {
                    Bug::NamesNobody => Trouble::SomebodyLate,
                    Bug::NamesTheFirst => Trouble::Late { vcpu: 0 },
                    _ => Trouble::Late { vcpu: v },
                });
            }
        }
        Ok(())
    }
}

impl Field {
    /// Has a request wait on each vCPU until all are in theirs; not for ever, so that tests end.
    fn meet_in_requests(&self, limit: Duration, op: &MeetOp) -> Result<(), Trouble> {
        let inside = Arc::new((Mutex::new(0), Condvar::new()));
        let count = self.shared.cpus.len();
        let deadline = Instant::now() + limit;
        let overtakes = *lock(&self.overtaking.0) == Overtaking::Possible;
        let first = !self.met.swap(true, SeqCst);
        let join_in = |v: u32, cpu: &Cpu| {
            let (inside, op) = (inside.clone(), op.clone());
            let run: Op = Box::new(move || {
                *lock(&inside.0) += 1;
                inside.1.notify_all();
                let all = |here: &mut usize| (*here == count).then_some(());
                let met = wait(&inside.1, lock(&inside.0), Some(deadline), all);
                op(v);
                u64::from(met.is_some())
            });
            let reply = Arc::<Reply>::default();
            cpu.draw(self.shared.bug, |inbox| {
                inbox.jobs.push_back((run, reply.clone()));
            });
            if first && v == 0 {
                // The order that does it: a second meeting, begun now, overtakes the first.
                let mut overtaking = lock(&self.overtaking.0);
                *overtaking = Overtaking::Possible;
                let done = |o: &mut Overtaking| (*o == Overtaking::Done).then_some(());
                let _alone = wait(&self.overtaking.1, overtaking, Some(deadline), done);
            }
            reply
        };
        let replies: Vec<_> = (0..)
            .zip(&self.shared.cpus)
            .map(|(v, cpu)| join_in(v, cpu))
            .collect();
        if overtakes {
            *lock(&self.overtaking.0) = Overtaking::Done;
            self.overtaking.1.notify_all();
        }
        let met = replies
            .iter()
            .all(|reply| reply.take(deadline + Duration::from_millis(100)) == Some(Some(1)));
        if met {
            Ok(())
        } else {
            Err(Trouble::SomebodyLate)
        }
    }
}

impl VcpuLoop for Field {
    fn vcpus(&self) -> u32 {
        u32::try_from(self.shared.cpus.len()).unwrap()
    }

    fn suspend(&self, limit: Duration) -> Result<(), Trouble> {
        let mut suspended = lock(&self.suspended);
        if !*suspended || self.shared.bug == Bug::CountedAcknowledgements {
            self.stop_all(limit)?;
        }
        *suspended = true;
        Ok(())
    }

    fn resume(&self) -> Result<(), Trouble> {
        assert!(self.shared.bug != Bug::Panics, "the bug of this loop");
        let mut suspended = lock(&self.suspended);
        self.set(Want::Run);
        *suspended = false;
        Ok(())
    }

    fn call(&self, vcpu: u32, limit: Duration, op: Op) -> Result<u64, Trouble> {
        let (cpu, bug) = (&self.shared.cpus[vcpu as usize], self.shared.bug);
        let over = lock(&cpu.inbox).want == Want::End;
        if bug == Bug::RunsOnTheCaller || (bug == Bug::RunsAfterTheEnd && over) {
            return Ok(op());
        }
        let reply = match bug {
            Bug::SharedReplies => cpu.replies.clone(),
            _ => Arc::default(),
        };
        let mut refused = false;
        cpu.draw(bug, |inbox| {
            refused = inbox.want == Want::End;
            if !refused {
                inbox.jobs.push_back((op, reply.clone()));
            }
        });
        if refused {
            return Err(Trouble::Ended);
        }
        let deadline = Instant::now() + limit;
        let answer = if bug == Bug::LooksRarely {
            loop {
                match reply.take(Instant::now() + Duration::from_millis(1)) {
                    None if Instant::now() < deadline => cpu.draw(bug, |_| ()),
                    answer => break answer,
                }
            }
        } else {
            reply.take(deadline)
        };
        answer.ok_or(Trouble::Late { vcpu })?.ok_or(Trouble::Ended)
    }

    fn progress(&self, vcpu: u32) -> u64 {
        self.shared.cpus[vcpu as usize].guest.progress.load(SeqCst)
    }

    fn destroy(&self) {
        if self.over.swap(true, SeqCst) {
            return;
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        // Again and again: some of these loops lose kicks.
        while !threads.iter().all(JoinHandle::is_finished) {
            for cpu in &self.shared.cpus {
                cpu.draw(self.shared.bug, |inbox| inbox.want = Want::End);
            }
            std::thread::yield_now();
        }
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }

    fn meet(&self, limit: Duration, op: MeetOp) -> Result<(), Trouble> {
        if self.shared.bug == Bug::MeetsInRequests {
            return self.meet_in_requests(limit, &op);
        }
        let suspended = lock(&self.suspended);
        let bug = self.shared.bug;
        if !*suspended && bug != Bug::MeetsOneByOne {
            self.stop_all(limit)?;
        }
        let mut met = Ok(());
        for v in self.shared.cpus.iter().zip(0..).map(|(_, v)| v) {
            if bug == Bug::MeetsOnlyTheFirst && v > 0 {
                break;
            }
            let op = op.clone();
            let run: Op = Box::new(move || {
                op(v);
                0
            });
            met = met.and(self.call(v, limit, run).map(drop));
        }
        if !*suspended {
            self.set(Want::Run);
        }
        met
    }

    fn hook_entry(&self, vcpu: u32, hook: EntryHook) -> bool {
        self.shared.cpus[vcpu as usize].guest.set_hook(hook);
        true
    }

    fn exits(&self, vcpu: u32) -> Option<u64> {
        Some(self.shared.cpus[vcpu as usize].guest.exits.load(SeqCst))
    }
}

impl Drop for Field {
    fn drop(&mut self) {
        self.destroy();
    }
}

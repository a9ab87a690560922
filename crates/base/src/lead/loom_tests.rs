//! Models of the hand-over. The "network" is a box with a condition variable; a hang is a lost wake.

use super::*;

/// What a peer has put there, and whether there was a nudge.
#[derive(Default)]
struct News {
    answers: Vec<usize>,
    nudge: bool,
}

#[derive(Default)]
struct State {
    lead: Lead,
    answered: [bool; 3],
    waiters: [Option<Waiter>; 3],
    failed: bool,
}

struct Net {
    state: Mutex<State>,
    news: Mutex<News>,
    bell: Condvar,
}

impl Net {
    fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(State::default()), news: Mutex::new(News::default()), bell: Condvar::new() })
    }

    fn answer(&self, call: usize) {
        self.news.lock().unwrap().answers.push(call);
        self.bell.notify_all();
    }

    fn wait(&self, call: usize) {
        let (state, granted) = wait(self, lock(self), Deadline::NEVER, &mut Answer(call));
        assert!(granted);
        drop(state);
    }
}

impl Driven for Net {
    type State = State;
    type Nap = ();

    fn mutex(&self) -> &Mutex<State> {
        &self.state
    }

    fn lead(state: &mut State) -> &mut Lead {
        &mut state.lead
    }

    fn can_drive(state: &State) -> bool {
        !state.failed
    }

    fn turn<'a>(&'a self, mut state: MutexGuard<'a, State>) -> (MutexGuard<'a, State>, Option<()>) {
        let answers = std::mem::take(&mut self.news.lock().unwrap().answers);
        for &call in &answers {
            state.answered[call] = true;
            if let Some(waiter) = state.waiters[call].take() {
                state.lead.wake(waiter);
            }
        }
        let nothing = answers.is_empty().then_some(());
        (state, nothing)
    }

    fn nap(&self, (): (), _: Deadline) {
        let mut news = self.news.lock().unwrap();
        while news.answers.is_empty() && !news.nudge {
            news = self.bell.wait(news).unwrap();
        }
    }

    fn nudge(&self) {
        self.news.lock().unwrap().nudge = true;
        self.bell.notify_all();
    }

    fn hush(&self) {
        self.news.lock().unwrap().nudge = false;
    }
}

struct Answer(usize);

impl Wish<State> for Answer {
    fn granted(&mut self, state: &mut State) -> bool {
        state.answered[self.0] || state.failed
    }

    fn enlist(&mut self, state: &mut State, waiter: Waiter) {
        state.waiters[self.0] = Some(waiter);
    }
}

/// Two callers and a peer that answers in the order opposite to that in which they are likely to wait.
#[test]
fn loom_one_drives_and_the_other_is_told_or_takes_over() {
    loom::model(|| {
        let net = Net::new();
        let callers = [0, 1].map(|call| {
            let net = Arc::clone(&net);
            loom::thread::spawn(move || net.wait(call))
        });
        net.answer(1);
        net.answer(0);
        callers.map(|caller| caller.join().unwrap());
        let state = lock(&*net);
        assert_eq!((state.lead.driven, state.lead.waiting.len(), state.lead.called), (false, 0, 0));
    });
}

/// The one that drives has its answer and leaves while the other goes to sleep: the role must not stay free.
#[test]
fn loom_the_role_is_passed_on_when_the_answer_comes_late() {
    loom::model(|| {
        let net = Net::new();
        let first = {
            let net = Arc::clone(&net);
            loom::thread::spawn(move || net.wait(0))
        };
        let second = {
            let net = Arc::clone(&net);
            loom::thread::spawn(move || net.wait(1))
        };
        net.answer(0);
        first.join().unwrap();
        net.answer(1);
        second.join().unwrap();
    });
}

/// A third thread ends everything (a connection that is closed): the one that naps and the one on its seat are told.
#[test]
fn loom_an_end_from_outside_reaches_the_one_that_naps_and_the_one_that_sits() {
    loom::model(|| {
        let net = Net::new();
        let callers = [0, 1].map(|call| {
            let net = Arc::clone(&net);
            loom::thread::spawn(move || net.wait(call))
        });
        let mut state = lock(&*net);
        state.failed = true;
        let waiters: Vec<_> = state.waiters.iter_mut().filter_map(Option::take).collect();
        waiters.into_iter().for_each(|waiter| state.lead.wake(waiter));
        attend(&*net, &mut state);
        drop(state);
        callers.map(|caller| caller.join().unwrap());
    });
}

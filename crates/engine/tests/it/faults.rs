//! Single faults at chosen steps: lost answers, refused rows, fences.

use std::time::Duration;

use syncline_core::ErrorKind;
use syncline_engine::Control;
use syncline_testkit::memory::{
    Action, Faults, MemoryDestination, MemorySource, Random, Step, assert_equal, assert_history,
};

use crate::support::{Shop, pipeline, run, run_with};

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_done_twice() {
    for (nth, action) in (1..14).flat_map(|nth| {
        [(nth, Action::DoThenFail(ErrorKind::Unknown)), (nth, Action::Refuse(ErrorKind::Unknown))]
    }) {
        let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
        shop.fill(100);
        let faults = Faults::none();
        let destination = MemoryDestination::new().checked_against(&shop.database).with_faults(&faults);
        run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
        let mut random = Random::new(nth);
        (0..80).for_each(|_| shop.scribble(&mut random, 200));
        faults.at(Step::Commit, faults.passes(Step::Commit) + nth % 5 + 1, action);
        let summary =
            run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
        assert_equal(&shop.database, &destination);
        assert_history(&shop.database, &destination);
        assert!(summary.sum.is_complete(), "{:?}", summary.sum);
    }
}

#[tokio::test]
async fn an_aborted_run_rolls_back_and_the_next_goes_on() {
    let (shop, dir) = (Shop::new(), tempfile::tempdir().unwrap());
    shop.fill(400);
    let faults = Faults::none();
    let destination = MemoryDestination::new().checked_against(&shop.database).with_faults(&faults);
    let hold = faults.hold(Step::Commit, 4);
    let control = Control::new();
    let stopper = control.clone();
    let running = tokio::spawn(run_with(
        pipeline(MemorySource::new(&shop.database), &destination, dir.path()),
        control,
    ));
    hold.arrived(1).await;
    stopper.abort();
    assert_eq!(running.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    hold.release();
    faults.clear();
    tokio::time::sleep(Duration::from_millis(50)).await;
    run(pipeline(MemorySource::new(&shop.database), &destination, dir.path())).await.unwrap();
    assert_equal(&shop.database, &destination);
}

//! Tenants whose conversations are stopped because the tenant is being deleted.

use std::time::Duration;

use copilotd_actors::actors::conversation::Refusal;
use copilotd_actors::actors::shared::Bounds;
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::fakes::model::Act;

use crate::support::{World, copilot, scope, submission};

const TIME: Duration = Duration::from_secs(20);

async fn world() -> World {
    let bounds = Bounds {
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    World::bounded(copilot(), bounds).await
}

#[tokio::test(start_paused = true)]
async fn a_closed_tenants_conversations_end_and_none_is_started_until_it_is_opened_again() {
    let world = world().await;
    world.model.on("long", &[vec![Act::Text("so far".into()), Act::Stall]]);
    let (one, two) = (world.create().await, world.create().await);
    world.submit(one, "long").await;
    world.model.wait_for(|seen| seen.open == 1).await;
    let tenant = world.scope.tenant().clone();
    world.policies.suspend(&tenant, true);
    world.directory().notify_standing_changed(|known| *known == tenant);
    world.directory().close_tenant(&tenant);
    assert_eq!(world.directory().stop_tenant(&tenant, TIME).await, 0);
    assert_eq!(world.directory().alive(), 0);
    // What the suspension required was stored before the conversation ended.
    assert_eq!(world.names(one).last(), Some(&"turn.cancelled"));
    assert_eq!(world.model.wait_for(|seen| seen.open == 0).await.dropped, 1);

    // Neither a request, nor the reconciler, nor a restart starts one again.
    let asked = world.execute(two, Command::RECOVER).await;
    assert_eq!(asked.unwrap_err(), Refusal::NotStored);
    assert!(!world.directory().wake(&world.scope, one).await);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(world.directory().alive(), 0);
    // Another tenant's conversations still start.
    assert!(world.directory().wake(&scope("globex"), two).await);

    world.policies.suspend(&tenant, false);
    world.directory().reopen_tenant(&tenant);
    let turn = world.turn_id();
    world.execute(two, submission(turn, "hello")).await.unwrap();
    world.end_of(two, turn).await;
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_dies_while_its_tenant_is_closed_is_not_started_again() {
    let world = world().await;
    let id = world.create().await;
    let tenant = world.scope.tenant().clone();
    world.directory().close_tenant(&tenant);
    world.model.on("fails", &[vec![Act::Panic]]);
    // Its agent dies with it, or it continues: either way it ends when told to.
    let _ = world.execute(id, submission(world.turn_id(), "fails")).await;
    assert_eq!(world.directory().stop_tenant(&tenant, TIME).await, 0);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.directory().alive(), 0);
}

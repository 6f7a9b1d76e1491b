//! Admission control: turns beyond the limits are refused before they are stored.

use std::time::Duration;

use copilotd_actors::actors::conversation::{Principal, Refusal};
use copilotd_actors::actors::shared::{Bounds, TurnLimit};
use copilotd_actors::domain::conversation::command::{Command, Decision};
use copilotd_actors::domain::conversation::decide::Rejection;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::{ConversationId, TurnId};
use copilotd_actors::domain::policy::Repeat;
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::ports::Ids as _;
use copilotd_actors::tenancy::TenantScope;
use serde_json::json;

use crate::support::{World, copilot, scope, submission, tool};

async fn submit_at_once(world: &World, count: usize) -> (Vec<(ConversationId, TurnId)>, Vec<Refusal>) {
    let mut conversations = Vec::new();
    for _ in 0..count {
        conversations.push(world.create().await);
    }
    // The store is slow, so that all requests are admitted before the first is stored.
    world.log.delay_appends(Duration::from_millis(50));
    let asks = conversations.iter().map(|id| async move {
        let turn = world.turn_id();
        world.execute(*id, submission(turn, "hello")).await.map(|_| (*id, turn))
    });
    let answers = futures::future::join_all(asks).await;
    let (accepted, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    (
        accepted.into_iter().flatten().collect(),
        refused.into_iter().filter_map(Result::err).collect(),
    )
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_node_and_tenant_hold_for_requests_that_come_at_once() {
    // Alone, a tenant takes at most half of a node.
    for (node, tenant, user, full) in [
        (13, 100, 100, TurnLimit::Tenant),
        (100, 7, 100, TurnLimit::Tenant),
        (100, 100, 7, TurnLimit::User),
    ] {
        let bounds = Bounds {
            node_turns: node,
            tenant_turns: tenant,
            user_turns: user,
            ..Bounds::default()
        };
        let world = World::bounded(copilot(), bounds).await;
        world.model.on("hello", &[says(&["x"], Duration::from_secs(5))]);
        let (accepted, refused) = submit_at_once(&world, 30).await;
        assert_eq!(accepted.len(), 7);
        assert!(
            refused
                .iter()
                .all(|refusal| matches!(refusal, Refusal::TurnLimit(which, _) if *which == full)),
            "{refused:?}"
        );
        for (id, turn) in accepted {
            world.end_of(id, turn).await;
        }
        world.settle().await;
        assert_eq!(world.shared().admission.open(), 0);
        let (accepted, _) = submit_at_once(&world, 1).await;
        assert_eq!(accepted.len(), 1, "a permit is free again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_at_its_bound_leaves_room_for_a_colleague() {
    let bounds = Bounds {
        user_turns: 2,
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    world.model.on("hello", &[vec![Act::Stall]]);
    let (accepted, refused) = submit_at_once(&world, 5).await;
    assert_eq!((accepted.len(), refused.len()), (2, 3));
    // A refused turn is counted neither for the tenant nor for the user.
    assert_eq!(world.shared().admission.open(), 2);
    assert_eq!(
        world
            .shared()
            .user_turns
            .open(world.scope.tenant(), &world.principal().user),
        2
    );
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_failed_submit_gives_its_place_back() {
    let bounds = Bounds {
        node_turns: 1,
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    let id = world.create().await;
    for _ in 0..3 {
        let empty = world.execute(id, submission(world.turn_id(), " ")).await.unwrap_err();
        assert!(matches!(empty, Refusal::Rejected(Rejection::Invalid(_))), "{empty:?}");
        world.log.refuse_append(1, "the disk is full");
        let refused = world.execute(id, submission(world.turn_id(), "x")).await.unwrap_err();
        assert_eq!(refused, Refusal::Refused { disk_full: false });
    }
    world.log.fail_append(1, copilotd_actors::fakes::log::Fault::Before);
    world.execute(id, submission(world.turn_id(), "x")).await.unwrap_err();
    world.settle().await;
    assert_eq!(world.shared().admission.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_of_a_conversation_is_bounded() {
    let world = World::new().await;
    world.model.on("hello", &[vec![Act::Stall]]);
    let id = world.create().await;
    for _ in 0..17 {
        world.submit(id, "hello").await;
    }
    let full = world
        .execute(id, submission(world.turn_id(), "hello"))
        .await
        .unwrap_err();
    assert_eq!(full, Refusal::Rejected(Rejection::QueueFull { waiting: 16 }));
    assert_eq!(world.shared().admission.open(), 17);
}

#[tokio::test(start_paused = true)]
async fn a_crash_and_recovery_counts_open_turns_anew() {
    let mut world = World::new().await;
    world.model.on("hello", &[says(&["x"], Duration::from_secs(5))]);
    let id = world.create().await;
    let turn = world.submit(id, "hello").await;
    world.submit(id, "hello").await;
    world.crash().await;
    world.restart().await;
    world.named(id, "message.reset").await;
    assert_eq!(world.shared().admission.open(), 2);
    world.end_of(id, turn).await;
    world.settle().await;
    assert_eq!(world.shared().admission.open(), 0);
}

/// Submits a turn whose one call needs approval; returns once it is decided whether the call may wait.
async fn ask_for_approval(world: &World, tenant: &TenantScope, user: &str) -> (ConversationId, TurnId, bool) {
    let principal = Principal {
        user: user.parse().unwrap(),
        admin: false,
    };
    let (id, turn) = (ConversationId::new(world.ids.uuid()), world.turn_id());
    let Command::Create {
        copilot,
        channel,
        title,
        metadata,
        idempotency,
        ..
    } = world.creation(None)
    else {
        unreachable!("built as Create above")
    };
    let creation = Command::Create {
        tenant: tenant.tenant().clone(),
        user: principal.user.clone(),
        copilot,
        channel,
        title,
        metadata,
        idempotency,
    };
    let directory = world.directory();
    directory.execute(tenant, id, &principal, creation).await.unwrap();
    directory
        .execute(tenant, id, &principal, submission(turn, "work"))
        .await
        .unwrap();
    loop {
        let n = world.log.commits();
        let names = world.names(id);
        if names.contains(&"approval.requested") || names.contains(&"tool.finished") {
            return (id, turn, names.contains(&"approval.requested"));
        }
        world.log.wait_for_commits(n + 1).await;
    }
}

async fn world_with_approvals(bounds: Bounds) -> World {
    let policy = tool(copilot(), "do", Repeat::Never).with_approval("do");
    let world = World::bounded(policy, bounds).await;
    let asks = calls(&[("do", json!({ "n": 1 }))]);
    world.model.on("work", &[asks, says(&["done"], Duration::ZERO)]);
    world
}

#[tokio::test(start_paused = true)]
async fn turns_that_wait_for_a_person_hold_no_place_and_are_bounded_by_user_and_tenant() {
    let bounds = Bounds {
        node_turns: 10,
        tenant_turns: 10,
        user_approvals: 12,
        tenant_approvals: 20,
        reconcile: Duration::from_secs(5),
        ..Bounds::default()
    };
    let mut world = world_with_approvals(bounds).await;
    let (a, b, c) = (scope("acme"), scope("globex"), scope("initech"));
    let mut waiting = Vec::new();
    for tenant in [&a, &b] {
        for n in 0..24 {
            let user = if n < 14 { "ada" } else { "bob" };
            let (id, turn, waits) = ask_for_approval(&world, tenant, user).await;
            // Twelve of ada's, then eight of bob's until their tenant has its twenty.
            assert_eq!(waits, n < 12 || (14..22).contains(&n), "{n}");
            if waits {
                waiting.push((id, turn));
            } else if tenant.tenant() == world.scope.tenant() {
                assert!(
                    matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }),
                    "the model was told"
                );
            }
        }
    }
    world.settle().await;
    assert_eq!(world.shared().admission.working(), 0);
    assert_eq!(world.shared().admission.awaiting_approval(), 40);
    let begun = tokio::time::Instant::now();
    let (id, _, waits) = ask_for_approval(&world, &c, "eve").await;
    assert!(
        waits && begun.elapsed() < Duration::from_secs(1),
        "a third tenant's turn runs at once"
    );
    // They still count when their conversations are not in memory.
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(world.directory().alive(), 0);
    assert_eq!(world.shared().admission.awaiting_approval(), 41);
    assert!(!ask_for_approval(&world, &a, "ada").await.2);
    // So they do in the next process, which recovers all of them although it would admit none.
    world.crash().await;
    world.restart().await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(world.shared().admission.awaiting_approval(), 41);
    assert!(!ask_for_approval(&world, &a, "bob").await.2);
    assert!(ask_for_approval(&world, &c, "eve").await.2);
    // A decision returns the approval permit.
    let (first, turn) = waiting[0];
    let call = world
        .log
        .records(first)
        .into_iter()
        .find_map(|record| match record.event {
            Event::ApprovalRequested { call_id, .. } => Some(call_id),
            _ => None,
        });
    world
        .decide(first, turn, call.unwrap(), Decision::Reject)
        .await
        .unwrap();
    world.end_of(first, turn).await;
    assert!(ask_for_approval(&world, &a, "ada").await.2);
    let _ = id;
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_finds_no_place_can_be_made_again() {
    let bounds = Bounds {
        node_turns: 2,
        ..Bounds::default()
    };
    let world = world_with_approvals(bounds).await;
    world.model.on("long", &[says(&["x"], Duration::from_secs(5))]);
    let (id, turn, _) = ask_for_approval(&world, &world.scope, "ada").await;
    let other = world.create().await;
    let long = world.submit(other, "long").await;
    let call = world.log.records(id).into_iter().find_map(|record| match record.event {
        Event::ApprovalRequested { call_id, .. } => Some(call_id),
        _ => None,
    });
    let refused = world.decide(id, turn, call.unwrap(), Decision::Reject).await;
    assert!(matches!(refused.unwrap_err(), Refusal::TurnLimit(TurnLimit::Tenant, _)));
    world.end_of(other, long).await;
    world.decide(id, turn, call.unwrap(), Decision::Reject).await.unwrap();
    assert!(matches!(world.end_of(id, turn).await, Event::TurnCompleted { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_was_only_created_or_changed_leaves_memory_within_a_moment() {
    let world = World::new().await;
    let begun = tokio::time::Instant::now();
    let mut conversations = Vec::new();
    for _ in 0..500 {
        conversations.push(world.create().await);
    }
    let gone = || async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        world.directory().alive()
    };
    assert_eq!(gone().await, 0);
    for id in &conversations {
        let (title, metadata) = (Some("t".to_owned()), None);
        world.execute(*id, Command::Update { title, metadata }).await.unwrap();
    }
    assert_eq!(gone().await, 0);
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "passivated early, not after the full idle time"
    );
    // One that had a turn stays for the next one.
    let turn = world.submit(conversations[0], "hello").await;
    world.end_of(conversations[0], turn).await;
    assert_eq!(gone().await, 1);
    let shut = world.execute(conversations[1], submission(world.turn_id(), " ")).await;
    assert!(shut.is_err());
    assert_eq!(
        gone().await,
        1,
        "a refused request does not keep a conversation in memory"
    );
}

#[tokio::test(start_paused = true)]
async fn conversations_without_work_are_bounded() {
    let bounds = Bounds {
        idle_conversations: 5,
        ..Bounds::default()
    };
    let world = World::bounded(copilot(), bounds).await;
    for _ in 0..50 {
        let id = world.create().await;
        let turn = world.submit(id, "hello").await;
        world.end_of(id, turn).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.directory().alive() <= 6, "{}", world.directory().alive());
}

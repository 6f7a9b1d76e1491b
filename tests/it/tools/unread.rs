use copilotd::adapters::systems::zendesk::unread::{Remark, is_unread};

const REQUESTER: Remark = Remark {
    requester: true,
    agent: false,
    public: true,
};
const ANSWER: Remark = Remark {
    requester: false,
    agent: true,
    public: true,
};
const NOTE: Remark = Remark {
    requester: false,
    agent: true,
    public: false,
};
const IN_COPY: Remark = Remark {
    requester: false,
    agent: false,
    public: true,
};
/// An agent who asks for help like a customer.
const COLLEAGUE: Remark = Remark {
    requester: true,
    agent: true,
    public: true,
};

#[test]
fn a_ticket_is_unread_until_a_public_answer() {
    let cases: &[(&str, &[Remark], Option<bool>)] = &[
        // Newest first.
        ("new", &[REQUESTER], Some(true)),
        ("open", &[REQUESTER], Some(true)),
        ("open", &[ANSWER, REQUESTER], Some(false)),
        ("open", &[REQUESTER, ANSWER, REQUESTER], Some(true)),
        ("open", &[NOTE, REQUESTER], Some(true)),
        ("open", &[NOTE, ANSWER, REQUESTER], Some(false)),
        ("open", &[IN_COPY, ANSWER, REQUESTER], Some(false)),
        ("open", &[IN_COPY, REQUESTER], Some(true)),
        ("new", &[COLLEAGUE], Some(true)),
        ("new", &[ANSWER], Some(false)),
        ("new", &[NOTE, IN_COPY], None),
        ("new", &[], None),
        ("pending", &[REQUESTER], Some(false)),
        ("solved", &[REQUESTER], Some(false)),
        ("hold", &[], Some(false)),
    ];
    for (status, comments, expected) in cases {
        assert_eq!(
            is_unread(status, comments.iter().copied()),
            *expected,
            "{status} {comments:?}"
        );
    }
}

"""`zenpy` against the simulated Zendesk."""

import pytest
import requests
from requests.adapters import HTTPAdapter
from zenpy import Zenpy
from zenpy.lib.api_objects import Comment, Ticket, User
from zenpy.lib.exception import APIException, RecordNotFoundException

PUBLIC = "https://acme.zendesk.test/"


class ToLoopback(HTTPAdapter):
    """Redirects requests for acme.zendesk.test to the simulator; zenpy supports only https."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def send(self, request, **options):
        asked = request.url
        request.url = asked.replace(PUBLIC, f"{self.url}/", 1)
        response = super().send(request, **options)
        # zenpy derives the response's type from the URL.
        response.url = request.url = asked
        return response


@pytest.fixture
def client(zendesk):
    session = requests.Session()
    session.mount(PUBLIC, ToLoopback(zendesk.url))
    return Zenpy(
        domain="zendesk.test",
        subdomain="acme",
        email="grace@example.com",
        token="secret",
        session=session,
        disable_cache=True,
    )


def test_who_am_i(client):
    assert client.users.me().name == "Grace Agent"


def test_tickets_are_listed_page_by_page(client):
    assert [ticket.id for ticket in client.tickets()] == list(range(101, 109))
    assert len(list(client.tickets(cursor_pagination=3))) == 8


def test_search(client):
    found = client.search(type="ticket", status_less_than="solved", priority="urgent")
    assert sorted(ticket.id for ticket in found) == [103, 108]
    assert len(client.search("refund", type="ticket")) == 1
    exported = client.search_export(query="", type="ticket")
    assert len(list(exported)) == 8


def test_a_ticket_is_created_and_commented(client, zendesk):
    audit = client.tickets.create(
        Ticket(
            subject="Printer",
            priority="high",
            tags=["fire"],
            comment=Comment(body="It is on fire"),
            requester=User(name="Erin", email="erin@example.com"),
        )
    )
    ticket = client.tickets(id=audit.ticket.id)
    assert (ticket.subject, ticket.status, ticket.requester.name) == ("Printer", "new", "Erin")
    ticket.comment = Comment(body="Try water", public=True)
    ticket.status = "pending"
    changed = client.tickets.update(ticket)
    assert changed.ticket.status == "pending"
    assert [comment.body for comment in client.tickets.comments(ticket=ticket.id)] == [
        "It is on fire",
        "Try water",
    ]
    applied = [entry["method"] for entry in zendesk.state()["journal"] if entry["applied"]]
    assert applied == ["POST", "PUT"]


def test_a_stale_change_is_refused(client):
    def change(status, stamp):
        ticket = client.tickets(id=101)
        ticket.status = status
        ticket.safe_update = True
        ticket.updated_stamp = stamp
        return client.tickets.update(ticket)

    stamp = client.tickets(id=101).updated_at
    assert change("pending", stamp).ticket.status == "pending"
    with pytest.raises(APIException) as raised:
        change("open", stamp)
    assert raised.value.response.status_code == 409


def test_people_and_views(client):
    assert [user.name for user in client.users.search(query="carol")] == ["Carol Customer"]
    views = {view.title: view.id for view in client.views()}
    unsolved = client.views.tickets(view=views["All unsolved tickets"])
    assert 106 not in [ticket.id for ticket in unsolved]


def test_what_is_missing_is_told(client):
    with pytest.raises(RecordNotFoundException):
        client.tickets(id=999)


def test_rate_limits_are_waited_for(client, zendesk):
    zendesk.knobs(fail_next=[{"path_contains": "/tickets/101", "status": 429, "retry_after": 1}])
    assert client.tickets(id=101).id == 101
    assert [entry["status"] for entry in zendesk.state()["journal"]] == [429, 200]

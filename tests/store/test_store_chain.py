"""T3: where a chain of pairs ends, what else may still work, and that the pointer to the current pair never goes
back, in whatever order its holders come, die and come again."""

import asyncio
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise, product
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from store.chain import Edge, end_of_chain, may_follow, spare_pairs
from store.connections import get_connection, put_connection
from store.database import Database
from store.token_journal import Promotion, append_pair, chain, mark_dead, promote
from tests.proofs.support import FULL
from tests.store.builders import minutes

_NAMES = [f"p{number}" for number in range(8)]
# Anything goes, also cycles and pairs with two parents: a damaged journal must not hang us.
_WILD = st.lists(
    st.builds(
        Edge,
        st.sampled_from(_NAMES),
        st.sampled_from(_NAMES),
        st.booleans(),
        st.booleans(),
        st.integers(0, 9),
    ),
    max_size=14,
)


@st.composite
def _grown(draw: st.DrawFn) -> list[Edge]:
    """What may really come about: each pair was got with an older one, or with a code."""
    edges: list[Edge] = []
    for order in range(1, draw(st.integers(1, 8)) + 1):
        parents = [edge.fingerprint for edge in edges] + [f"code:{order}"]
        used = draw(st.sampled_from(parents))
        edges.append(Edge(used, f"p{order}", draw(st.booleans()), draw(st.booleans()), order))
    return edges


def _children(edges: Sequence[Edge], of: str) -> list[Edge]:
    return [edge for edge in edges if edge.used == of]


def _lives(edges: Sequence[Edge], edge: Edge) -> bool:
    """Whether a pair that is neither used up nor refused can be reached from this one."""
    below = _children(edges, edge.fingerprint)
    return any(_lives(edges, child) for child in below) if below else not edge.dead


@settings(deadline=None)
@given(_WILD, st.sampled_from(_NAMES))
@example([Edge("p0", "p1"), Edge("p1", "p0")], "p0")
@example([Edge("p0", "p0")], "p0")
def test_t3_the_walk_ends_at_a_pair_that_leads_nowhere_new_whatever_the_edges(
    edges: list[Edge], start: str
) -> None:
    path = end_of_chain(start, edges)
    assert path[0] == start
    assert len(set(path)) == len(path)
    last_known = {edge.fingerprint: edge.used for edge in sorted(edges, key=lambda edge: edge.order)}
    assert set(path[1:]) <= set(last_known)
    one_parent_each = [
        edge for edge in edges if len({e.used for e in edges if e.fingerprint == edge.fingerprint}) == 1
    ]
    if len(one_parent_each) == len(edges):
        assert all(last_known[child] == parent for parent, child in pairwise(path))
        assert {edge.fingerprint for edge in _children(edges, path[-1])} <= set(path)
    assert path[-1] not in spare_pairs(start, edges)
    assert may_follow(start, start, edges) is False


@settings(deadline=None)
@given(_grown(), st.randoms(use_true_random=False))
def test_t3_at_each_fork_the_walk_takes_a_living_branch_then_a_promoted_one_then_the_youngest(
    edges: list[Edge], random: Random
) -> None:
    shuffled = random.sample(edges, len(edges))
    for start in edges:
        path = end_of_chain(start.fingerprint, shuffled)
        assert _children(edges, path[-1]) == []
        for parent, taken in pairwise(path):
            best = max(
                _children(edges, parent), key=lambda edge: (_lives(edges, edge), edge.promoted, edge.order)
            )
            assert taken == best.fingerprint


@settings(deadline=None)
@given(_grown())
def test_t3_spares_are_all_other_living_ends_of_the_same_consent_youngest_first(edges: list[Edge]) -> None:
    by_name = {edge.fingerprint: edge for edge in edges}

    def consent(name: str) -> str:
        return consent(by_name[name].used) if name in by_name else name

    for start in by_name:
        wanted = [
            edge.fingerprint
            for edge in reversed(edges)
            if not edge.dead
            and not _children(edges, edge.fingerprint)
            and consent(edge.used) == consent(start)
        ]
        end = end_of_chain(start, edges)[-1]
        assert spare_pairs(start, edges) == [name for name in wanted if name != end]


@settings(deadline=None)
@given(_grown())
def test_t3_of_two_pairs_exactly_one_may_follow_the_other_and_it_is_the_descendant_if_there_is_one(
    edges: list[Edge],
) -> None:
    names = [edge.fingerprint for edge in edges]
    for one, other in product(names, names):
        assert may_follow(one, other, edges) + may_follow(other, one, edges) == (one != other)
    for edge in edges:
        if edge.used in names:
            assert may_follow(edge.used, edge.fingerprint, edges)
        path = end_of_chain(edge.fingerprint, edges)
        assert all(may_follow(edge.fingerprint, later, edges) for later in path[1:])
        assert may_follow(None, edge.fingerprint, edges)


def test_t3_from_a_dead_pair_one_goes_to_its_living_sibling_but_not_back_to_its_parent() -> None:
    edges = [Edge("code:1", "a", order=1), Edge("a", "b", order=2), Edge("a", "c", dead=True, order=3)]
    assert may_follow("c", "b", edges)
    assert not may_follow("c", "a", edges)
    assert not may_follow("b", "c", edges)


def test_t3_a_living_end_is_found_beside_a_dead_one_that_had_been_promoted() -> None:
    dead = Edge("a", "b", promoted=True, dead=True, order=2)
    assert end_of_chain("a", [dead, Edge("a", "c", order=1)]) == ["a", "c"]
    followed = Edge("b", "d", order=3)
    assert end_of_chain("a", [dead, Edge("a", "c", order=1), followed]) == ["a", "b", "d"]


@settings(deadline=None)
@given(_grown())
def test_t3_the_block_and_the_journal_may_know_the_same_pair(edges: list[Edge]) -> None:
    """The block's edge has no age; it must not make a young pair an old one."""
    start = edges[0].fingerprint
    for edge in edges:
        block = Edge(edge.used, edge.fingerprint, promoted=edge.promoted)
        assert end_of_chain(start, [*edges, block]) == end_of_chain(start, edges)
        assert end_of_chain(start, [block, *edges]) == end_of_chain(start, edges)


def test_without_a_start_there_is_no_chain() -> None:
    assert (end_of_chain(None, [Edge("code:1", "a")]), spare_pairs(None, [Edge("code:1", "a")])) == ([], [])
    assert end_of_chain("a", []) == ["a"]


def test_a_pair_that_the_journal_does_not_know_gives_way_to_one_that_it_knows() -> None:
    assert may_follow("restored from a backup", "b", [Edge("a", "b", order=5)])


class JournalMachine(RuleBasedStateMachine):
    """Several holders at once. Each reads where the chain ends, has Kommo give a pair for it, writes that down (once
    or again), and promotes it; between any two of these it may be stopped for as long as one likes, or for ever."""

    runner: asyncio.Runner
    db: Database
    ends = Bundle("ends")
    given = Bundle("given")

    def __init__(self) -> None:
        super().__init__()
        self.org = uuid.uuid4().hex
        self.used: dict[str, str] = {}  # of each pair that Kommo gave
        self.rows: dict[str, int] = {}  # of each that was written down
        self.before = ""

    def pointer(self) -> str:
        found = self.runner.run(get_connection(self.db, self.org)).token_fingerprint
        assert found is not None
        return found

    def ancestry(self, pair: str) -> list[str]:
        return [pair, *self.ancestry(self.used[pair])] if pair in self.used else [pair]

    def write_down(self, pair: str, *, current: bool = False) -> None:
        row = self.runner.run(
            append_pair(
                self.db,
                org=self.org,
                used=self.used[pair],
                fingerprint=pair,
                sealed=pair,
                host="h",
                expires_at=None,
                now=minutes(0),
                current=current,
            )
        )
        assert self.rows.setdefault(pair, row.id) == row.id

    def step_on(self, pair: str) -> Promotion:
        return self.runner.run(promote(self.db, self.org, pair, expires_at=None, host="h", now=minutes(0)))

    @initialize(target=given)
    def connect(self) -> str:
        self.runner.run(
            put_connection(self.db, org=self.org, block_name="b", host="h", token_kind="pair", now=minutes(0))
        )
        return self.new_consent()

    @rule(target=given)
    def consent(self) -> str:
        return self.new_consent()

    def new_consent(self) -> str:
        pair = f"p{len(self.used)}"
        self.used[pair] = f"code:{len(self.used)}"
        self.write_down(pair, current=True)
        assert self.pointer() == pair
        self.before = pair
        return pair

    @rule(target=ends)
    def read(self) -> str:
        return self.runner.run(chain(self.db, self.org)).path()[-1]

    @rule(target=given, end=ends)
    def call(self, end: str) -> str:
        pair = f"p{len(self.used)}"
        self.used[pair] = end
        return pair

    @rule(pair=given)
    def append(self, pair: str) -> None:
        self.write_down(pair, current=self.used[pair].startswith("code:"))

    @rule(pair=given)
    def promote(self, pair: str) -> None:
        told, now = self.step_on(pair), self.pointer()
        assert (told is Promotion.GONE) == (pair not in self.rows)
        assert (told in {Promotion.PROMOTED, Promotion.ALREADY}) == (now == pair)
        if told is not Promotion.PROMOTED:
            assert now == self.before

    @rule(pair=given)
    def refuse(self, pair: str) -> None:
        self.runner.run(mark_dead(self.db, self.org, pair, minutes(0)))

    @invariant()
    def the_pointer_is_on_a_pair_of_the_chain_and_not_behind_where_it_was(self) -> None:
        if not self.used:
            return
        now = self.pointer()
        assert now in self.rows
        if now != self.before:
            assert now not in self.ancestry(self.before)
            consents = [int(self.ancestry(pair)[-1].partition(":")[2]) for pair in (self.before, now)]
            assert consents == sorted(consents), "a younger consent stays in force"
        self.before = now

    def teardown(self) -> None:
        """Whoever comes next finishes what the others left, and nothing that was written down is lost."""
        if not self.used:
            return
        found = self.runner.run(chain(self.db, self.org))
        assert {edge.fingerprint for edge in found.edges} == set(self.rows)
        for pair in found.path():
            self.step_on(pair)
            self.the_pointer_is_on_a_pair_of_the_chain_and_not_behind_where_it_was()
        assert self.pointer() == found.path()[-1]
        assert self.pointer() not in {self.used[pair] for pair in self.rows}, "nobody has used it up"
        assert self.runner.run(chain(self.db, self.org)).path() == [self.pointer()]


def test_t3_in_whatever_order_holders_come_and_die_the_pointer_ends_on_the_current_pair(
    migrated_place: tuple[str, str],
) -> None:
    async def opened() -> Database:
        return await stack.enter_async_context(Database.open(*migrated_place))

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        machine = type("Machine", (JournalMachine,), {"runner": runner, "db": runner.run(opened())})
        try:
            run_state_machine_as_test(
                machine,
                settings=settings(max_examples=25 if FULL else 10, stateful_step_count=25, deadline=None),
            )
        finally:
            runner.run(stack.aclose())

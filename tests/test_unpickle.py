"""Pickles are read as Python reads them where they hold plain values, and their cost is bounded where they mean harm."""

import contextlib
import io
import pickle
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidat import unpickle
from minidat.unpickle import Inert, Machine, Name, OtherKey, PickleError, shown

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.lists(inner, min_size=4, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=9) | st.integers(-(2**63), 2**63 - 1), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain, st.integers(0, 5))
def test_plain_values_come_back(value, protocol):
    """bytes of protocols below 3 are calls, which the base class refuses."""
    program = pickle.dumps(value, protocol)
    if (protocol < 3 and b"_codecs" in program) or b"__builtin__" in program:
        with pytest.raises(PickleError):
            Machine(program).load()
    else:
        found = Machine(program).load()
        assert found == value and repr(found) == repr(value)


def load(program, machine=Machine):
    return machine(program).load()


def refusal(program, machine=Machine):
    with pytest.raises(PickleError) as caught:
        load(program, machine)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shared_objects_stay_shared_and_may_hold_themselves():
    a = [1]
    a.append(a)
    found = load(pickle.dumps([a, a]))
    assert found[0] is found[1] and found[0][1] is found[0]


@pytest.mark.parametrize(
    ("program", "value"),
    [
        (b"I7\n.", 7),
        (b"I01\n.", True),
        (b"L12345678901L\n.", 12345678901),
        (b"F0.5\n.", 0.5),
        (b"S'a\\x00b'\n.", b"a\0b"),
        (b"U\x02ab.", b"ab"),
        (b"T\x02\0\0\0ab.", b"ab"),
        (b"Va\\u0041\n.", "aA"),
        (b"(K\x01K\x022t.", (1, 2, 2)),
        (b"(K\x01(K\x021t.", (1,)),
        (b"K\x01K\x020.", 1),
        (b"(U\x01aK\x01d.", {"a": 1}),
        (b"]p5\nK\x01ag5\n0.", [1]),
        (b"\x96\x02" + bytes(7) + b"ab.", b"ab"),
        (b"J\xfe\xff\xff\xff.", -2),
        (b"\x8a\x01\xfe.", -2),
        (b"\x8b\x01\0\0\0\xfe.", -2),
        (b"M\xfe\xff.", 65534),
        (b"](K\x05\x94K\x06\x94h\x00h\x01e.", [5, 6, 5, 6]),
    ],
)
def test_older_instructions(program, value):
    found = load(program)
    assert found == value and type(found) is type(value)


def test_sets_become_inert():
    assert isinstance(load(pickle.dumps({1, 2}, 4)), Inert)
    assert load(pickle.dumps(frozenset([1]), 4)).name == "frozenset"


@pytest.mark.parametrize("protocol", range(6))
def test_no_name_is_known(protocol):
    said = refusal(pickle.dumps(io.BytesIO, protocol))
    assert said in (f"it refers to {m}.BytesIO, which is refused; nothing of it was called" for m in ("_io", "io"))


class Lenient(Machine):
    def name(self, name):
        return name

    def call(self, function, arguments):
        return Inert(function.name) if isinstance(function, Name) else super().call(function, arguments)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (b"", "it ends early or takes from an empty stack"),
        (b"K", "it ends early"),
        (b"T\xff\xff\xff\x7fab.", "it ends early"),
        (b"\x8e" + b"\xff" * 8 + b".", "it ends early"),
        (b".", "it ends early or takes from an empty stack"),
        (b"0.", "takes from an empty stack"),
        (b"K\x01\x86.", "takes from an empty stack"),
        (b"\xff", "unknown instruction 0xff at byte 0"),
        (b"\x82\x01.", "unknown instruction 0x82 at byte 0"),
        (b"\x97.", "unknown instruction 0x97"),
        (b"h\x07.", "nothing is at place 7 of its memo"),
        (b"X\x01\0\0\0\xff.", "a value before byte 6 makes no sense"),
        (b"I" + b"1" * 5000 + b"\n.", "makes no sense"),
        (b"Ix\n.", "makes no sense"),
        (b"Sab\n.", "a string without quotes"),
        (b"}(K\x01u.", "a key without a value"),
        (b"](K\x01K\x02u.", "it puts items into a list"),
        (b"}K\x01a.", "it appends to a dict"),
        (b"K\x01)R.", "it calls a int"),
        (b"K\x01K\x02R.", "it calls with a int of arguments"),
        (b"K\x01N\x93.", "it refers to a name that is no text"),
        (b"K\x01Nb.", "it gives a state to a int"),
        (b"K\x01Q.", "it refers to something outside of it"),
    ],
)
def test_programs_that_make_no_sense(program, said):
    assert said in refusal(program)


def test_objects_of_no_interest_take_everything_and_keep_nothing():
    program = b"cm\nA\n)\x81}b(K\x01K\x02u(K\x01e(K\x01\x90Nb."
    found = load(program, Lenient)
    assert found.name == "A" and not hasattr(found, "__dict__")
    assert load(b"cm\nA\n)}\x92.", Lenient).name == "A"
    assert load(b"}}b.") == {}  # a dictionary's attributes


@pytest.mark.parametrize("key", [None, 0.5, True, (1, 2), 2**63, -(2**63) - 1, "x" * 1001, b"x" * 1001])
def test_other_keys_are_replaced(key):
    (found,) = load(pickle.dumps({key: 1}, 4))
    assert isinstance(found, OtherKey)
    assert found.kind in (type(key).__name__, f"long {type(key).__name__}")


def test_keys_of_python_2_are_text():
    assert load(b"}U\x03a\xe9cK\x01s.") == {"aéc": 1}


def test_what_a_message_shows_of_a_name():
    assert shown("a.b") == "a.b"
    assert shown("\x1b[31m\n") == r"\x1b[31m\n"
    assert shown("\ud800é") == r"\ud800é"
    assert len(shown("x" * 10**6)) == 80


# Cost: each of these hangs, crashes or fills the memory in Python's own unpickler

MANY = 100_000
EMPTY, ONE = b")", b"K\x01"


def doubling(steps):
    """A tuple of two references to a tuple of two … : 2**steps leaves, as a key."""
    return b"}" + EMPTY + b"q\x00" + b"h\x00\x86q\x00" * steps + ONE + b"s"


COSTLY = {
    "a key whose hash takes for ever": doubling(60),
    "a key that is nested too deeply to hash": b"}" + EMPTY + b"\x85" * MANY + ONE + b"s",
    "nested tuples": EMPTY + b"\x85" * MANY,
    "nested lists": b"(" * MANY + b"l" * MANY,
    "marks alone": b"(" * MANY + ONE,
    "names": b"cm\nA\n0" * (MANY // 4) + ONE,
    "new objects": b"cm\nA\nq\x00" + b")\x81" * 9 + b"0h\x00" * 9,
    "places in the memo far apart": ONE + b"".join(b"r" + (2**32 - 1 - i).to_bytes(4, "little") for i in range(MANY // 4)),
    "one large number as a key, again and again": b"}" + b"\x8b" + (10**5).to_bytes(4, "little") + b"\x01" * 10**5 + b"q\x00"
    + b"0" + b"h\x00K\x01s" * (MANY // 4),
    "two long equal keys": b"}" + (b"X" + (10**5).to_bytes(4, "little") + b"a" * 10**5 + b"q\x00") + b"0"
    + (b"X" + (10**5).to_bytes(4, "little") + b"a" * 10**5 + b"q\x01") + b"0" + b"h\x00K\x01sh\x01K\x01s" * (MANY // 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", COSTLY)
def test_cost_is_bounded(kind):
    program = b"\x80\x02" + COSTLY[kind] + b"."
    tracemalloc.start()
    begun = time.perf_counter()
    with contextlib.suppress(PickleError):
        Lenient(program).load()
    seconds, (_, peak) = time.perf_counter() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 300 * len(program) + 10**6
    assert seconds < 30  # a second, where nothing else runs and nothing is traced


def test_the_number_of_instructions_is_bounded(monkeypatch):
    monkeypatch.setattr(unpickle, "STEPS", 10)
    assert load(b"K\x01" * 9 + b".") == 1
    assert refusal(b"K\x01" * 10 + b".") == "it has more than 10 instructions"


@pytest.mark.parametrize(
    "program", [b"F" + b"x" * 100_000 + b"\n.", b"g" + b"9" * 4000 + b"\n."], ids=["number", "place"]
)
def test_a_message_is_short_whatever_the_program_holds(program):
    assert len(refusal(program)) < 400

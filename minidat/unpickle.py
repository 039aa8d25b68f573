"""Pickles read as data: no name in them is imported, nothing in them is called, and their cost is bounded.

A pickle is a program for a machine with a stack and a memo: its instructions push values, collect them into lists, tuples and
dictionaries, name functions and classes, and call them. `Machine` is that machine, with four differences:

  names    A name becomes a `Name`, two strings, where the subclass knows it. Otherwise the pickle is refused.
  calls    The subclass's `call` says what becomes of one. A class that is of no interest becomes an `Inert`, which keeps nothing.
  keys     A dictionary's keys are short strings and 64-bit integers. Any other key is replaced by an `OtherKey`, which is
           compared by identity: hashing and comparing what the file chose could take for ever.
  cost     At most `STEPS` instructions. One instruction takes constant time and memory, or as much as it has bytes in the file;
           nothing is copied twice and nothing recurses.

Source: Python's pickle protocols 0 to 5, as described in Python's `pickletools`.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

STEPS = 2_000_000
"""Instructions in a pickle. The largest genuine CIFAR file has 260,000, a training checkpoint of DAT-B about 100,000."""

LONGEST_KEY = 1000  # characters
LARGEST_KEY = 2**63
SHOWN = 80  # characters of a name in a message


class PickleError(ValueError):
    """A pickle cannot be read. The message is the reason alone; the caller knows the file."""


class Name(NamedTuple):
    """A function or class that a pickle refers to."""

    module: str
    name: str

    def __str__(self) -> str:
        return shown(f"{self.module}.{self.name}")


class Inert:
    """Stands for an object that is not read. It takes whatever the pickle gives it, and keeps nothing but its class's name."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name


class OtherKey:
    """Stands for a dictionary's key that is neither a short string nor a 64-bit integer."""

    __slots__ = ("kind",)

    def __init__(self, kind: str):
        self.kind = kind


def kind_of(value: Any) -> str:
    """What a value is, in a word for a message."""
    return (
        value.name if isinstance(value, Inert) else value.kind if isinstance(value, OtherKey) else type(value).__name__
    )


def shown(text: str, most: int = SHOWN) -> str:
    """A text from a file as a message may show it: of `most` characters, and without what would steer a terminal."""
    cut = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in cut)


def quoted(text: str) -> str:
    """`shown`, in quotes."""
    return f"'{shown(text)}'"


class Machine:
    """Runs one pickle. A subclass says by `name`, `call`, `build` and `persistent` what the file may hold."""

    def __init__(self, program: bytes):
        self.program, self.at = program, 0  # the next instruction's place
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}

    def name(self, name: Name) -> Any:
        """What becomes of a name. Raises PickleError for one that is refused, as all are here."""
        raise PickleError(f"it refers to {name}, which is refused; nothing of it was called")

    def call(self, function: Any, arguments: tuple[Any, ...]) -> Any:
        """What a call of a name, or a new object of the class of that name, gives."""
        raise PickleError(f"it calls a {kind_of(function)}")

    def build(self, thing: Any, state: Any) -> None:
        """Give an object its state. That of a dictionary, its attributes, and that of an `Inert` are dropped."""
        if not isinstance(thing, Inert | dict):
            raise PickleError(f"it gives a state to a {kind_of(thing)}")

    def persistent(self, identity: Any) -> Any:
        """What is stored outside the pickle under this identity."""
        raise PickleError("it refers to something outside of it")

    def load(self) -> Any:
        """The value that the program builds. Raises PickleError."""
        try:
            for _ in range(STEPS):
                code = self.program[self.at]
                self.at += 1
                if code == STOP:
                    return self.stack.pop()
                if code not in ACTIONS:
                    raise PickleError(f"unknown instruction {code:#04x} at byte {self.at - 1}")
                ACTIONS[code](self)
        except PickleError:
            raise
        except KeyError as error:
            raise PickleError(f"nothing is at place {shown(str(error))} of its memo, before byte {self.at}") from error
        except (IndexError, struct.error) as error:
            raise PickleError(f"it ends early or takes from an empty stack, before byte {self.at}") from error
        except (ValueError, OverflowError) as error:  # UnicodeDecodeError is one
            raise PickleError(f"a value before byte {self.at} makes no sense ({shown(str(error), 200)})") from error
        raise PickleError(f"it has more than {STEPS:,} instructions")

    # What the instructions need

    def take(self, count: int) -> bytes:
        """The next bytes of the program."""
        end = self.at + count
        if end > len(self.program):
            raise IndexError
        piece = self.program[self.at : end]
        self.at = end
        return piece

    def counted(self, size: int) -> bytes:
        """As many bytes as the next number says, which has `size` bytes itself."""
        return self.take(int.from_bytes(self.take(size), "little"))

    def line(self) -> bytes:
        """The bytes up to the next line feed."""
        end = self.program.index(b"\n", self.at)
        piece = self.program[self.at : end]
        self.at = end + 1
        return piece

    def marked(self) -> list[Any]:
        """What was pushed since the last mark, which is removed."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def push_name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("it refers to a name that is no text")
        self.push(self.name(Name(module, name)))

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if len(items) % 2:
            raise PickleError("a key without a value")
        if type(target) is dict:
            for i in range(0, len(items), 2):
                target[_key(items[i])] = items[i + 1]
        elif not isinstance(target, Inert):
            raise PickleError(f"it puts items into a {kind_of(target)}")

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target += items
        elif not isinstance(target, Inert):
            raise PickleError(f"it appends to a {kind_of(target)}")

    def push_call(self, arguments: Any) -> None:
        function = self.stack.pop()
        if type(arguments) is not tuple:
            raise PickleError(f"it calls with a {kind_of(arguments)} of arguments")
        self.push(self.call(function, arguments))

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]


def _key(key: Any) -> str | int | OtherKey:
    if type(key) is bytes and len(key) <= LONGEST_KEY:  # a string of Python 2
        key = key.decode("latin-1")
    if (type(key) is str and len(key) <= LONGEST_KEY) or (type(key) is int and -LARGEST_KEY <= key < LARGEST_KEY):
        return key
    return OtherKey(f"long {type(key).__name__}" if type(key) in (str, bytes, int) else kind_of(key))


def _number(text: bytes) -> int | bool:
    """Protocol 0 and Python 2's large integers. 00 and 01 are False and True."""
    return {b"00": False, b"01": True}.get(text, int(text))


def _quoted(text: bytes) -> bytes:
    """A string of Python 2, as source code has it."""
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[-1:] != text[:1]:
        raise PickleError("a string without quotes")
    return codecs.escape_decode(text[1:-1])[0]


def _tuple(count: int) -> Callable[[Machine], None]:
    def collect(m: Machine) -> None:
        if len(m.stack) < count:
            raise IndexError
        m.stack[-count:] = [tuple(m.stack[-count:])]

    return collect


def _pairs(m: Machine) -> None:
    items = m.marked()
    m.push({})
    m.set_items(items)


def _frozenset(m: Machine) -> None:
    m.marked()
    m.push(Inert("frozenset"))


def _pop(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.marked()


def _mark(m: Machine) -> None:
    m.below.append(m.stack)
    m.stack = []


def _set_item(m: Machine) -> None:
    value, key = m.stack.pop(), m.stack.pop()
    m.set_items([key, value])


def _global(m: Machine) -> None:
    module = m.line().decode()
    m.push_name(module, m.line().decode())


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.push_name(module, name)


def _new_with_keywords(m: Machine) -> None:
    m.stack.pop()  # the keywords
    m.push_call(m.stack.pop())


def _build(m: Machine) -> None:
    state = m.stack.pop()
    m.build(m.stack[-1], state)


STOP = ord(".")
ACTIONS: dict[int, Callable[[Machine], Any]] = {
    ord(code): action
    for code, action in {
        b"\x80": lambda m: m.take(1),  # PROTO
        b"\x95": lambda m: m.take(8),  # FRAME
        b"(": _mark,
        b"0": _pop,
        b"1": lambda m: m.marked(),
        b"2": lambda m: m.push(m.stack[-1]),
        # constants
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        # numbers: I, L and F are lines of text
        b"I": lambda m: m.push(_number(m.line())),
        b"L": lambda m: m.push(int(m.line().rstrip(b"L"))),
        b"F": lambda m: m.push(float(m.line())),
        b"K": lambda m: m.push(m.take(1)[0]),
        b"M": lambda m: m.push(int.from_bytes(m.take(2), "little")),
        b"J": lambda m: m.push(int.from_bytes(m.take(4), "little", signed=True)),
        b"\x8a": lambda m: m.push(int.from_bytes(m.counted(1), "little", signed=True)),
        b"\x8b": lambda m: m.push(int.from_bytes(m.counted(4), "little", signed=True)),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        # bytes, among them strings of Python 2
        b"S": lambda m: m.push(_quoted(m.line())),
        b"U": lambda m: m.push(m.counted(1)),
        b"T": lambda m: m.push(m.counted(4)),
        b"C": lambda m: m.push(m.counted(1)),
        b"B": lambda m: m.push(m.counted(4)),
        b"\x8e": lambda m: m.push(m.counted(8)),
        b"\x96": lambda m: m.push(m.counted(8)),
        # text
        b"V": lambda m: m.push(m.line().decode("raw_unicode_escape")),
        b"\x8c": lambda m: m.push(m.counted(1).decode("utf-8", "surrogatepass")),
        b"X": lambda m: m.push(m.counted(4).decode("utf-8", "surrogatepass")),
        b"\x8d": lambda m: m.push(m.counted(8).decode("utf-8", "surrogatepass")),
        # containers
        b"]": lambda m: m.push([]),
        b"l": lambda m: m.push(m.marked()),
        b"a": lambda m: m.append([m.stack.pop()]),
        b"e": lambda m: m.append(m.marked()),
        b")": lambda m: m.push(()),
        b"t": lambda m: m.push(tuple(m.marked())),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"}": lambda m: m.push({}),
        b"d": _pairs,
        b"s": _set_item,
        b"u": lambda m: m.set_items(m.marked()),
        b"\x8f": lambda m: m.push(Inert("set")),
        b"\x90": lambda m: m.append(m.marked()),
        b"\x91": _frozenset,
        # the memo
        b"p": lambda m: m.remember(int(m.line())),
        b"q": lambda m: m.remember(m.take(1)[0]),
        b"r": lambda m: m.remember(int.from_bytes(m.take(4), "little")),
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"g": lambda m: m.push(m.memo[int(m.line())]),
        b"h": lambda m: m.push(m.memo[m.take(1)[0]]),
        b"j": lambda m: m.push(m.memo[int.from_bytes(m.take(4), "little")]),
        # names and calls
        b"c": _global,
        b"\x93": _stack_global,
        b"R": lambda m: m.push_call(m.stack.pop()),
        b"\x81": lambda m: m.push_call(m.stack.pop()),
        b"\x92": _new_with_keywords,
        b"b": _build,
        b"P": lambda m: m.push(m.persistent(m.line().decode())),
        b"Q": lambda m: m.push(m.persistent(m.stack.pop())),
    }.items()
}
"""Instruction → what it does. Left out, and so refused: INST and OBJ of protocol 0, EXT1 to EXT4, and external buffers."""

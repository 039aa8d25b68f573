"""Signature strings: parsed, checked against arrays, and turned into example shapes."""

import numpy as np
import pytest

from minidat.autograd.shapes import PRIMES, Axes, parse


def arrays(*shapes):
    return tuple(None if s is None else np.zeros(s) for s in shapes)


def test_parse():
    signature = parse("... n d, b g 2, n? -> ... d")
    assert signature.inputs == (
        Axes(("n", "d"), ellipsis=True, optional=False),
        Axes(("b", "g", "2"), ellipsis=False, optional=False),
        Axes(("n",), ellipsis=False, optional=True),
    )
    assert signature.output == Axes(("d",), ellipsis=True, optional=False)
    assert not signature.variadic


def test_parse_many_and_scalars():
    many = parse("h, ...* -> ")
    assert many.variadic and many.inputs[-1] == Axes((), ellipsis=True, optional=False)
    assert many.output == Axes((), ellipsis=False, optional=False)


def test_a_signature_needs_an_arrow():
    with pytest.raises(ValueError, match="signature 'a b' has no '->'"):
        parse("a b")


def test_check_binds_axes_to_sizes():
    signature = parse("... n d, ... m d, ... n m? -> ... n m")
    assert signature.check("f", arrays((5, 2, 3), (7, 3), (2, 7))) == {"n": 2, "d": 3, "m": 7}
    assert signature.check("f", arrays((2, 3), (7, 3), None)) == {"n": 2, "d": 3, "m": 7}


def test_leading_axes_are_not_compared():
    assert parse("... c, ... c -> ... c").check("f", arrays((4, 3), (5, 6, 3))) == {"c": 3}


def test_a_python_number_has_no_axes():
    assert parse("..., ... -> ...").check("f", (np.zeros(3), 2.0)) == {}
    with pytest.raises(ValueError, match=r"f: input 0 has 0 axes \(\), expected 1 \(n\)"):
        parse("n -> n").check("f", (2.0,))


@pytest.mark.parametrize(
    "text, shapes, message",
    [
        (
            "b n, b m -> n",
            [(2, 3), (4, 5)],
            r"^f: axis 'b' is 4 in input 1 \(4, 5\) but 2 in input 0; signature b n, b m",
        ),
        ("c c -> c", [(3, 5)], r"axis 'c' is 5 in input 0 \(3, 5\) but 3 in input 0"),
        ("n 2 -> n", [(7, 3)], r"axis '2' is 3 in input 0 \(7, 3\) but 2 in the signature"),
        ("b h w c -> b", [(1, 2, 3)], r"input 0 has 3 axes \(1, 2, 3\), expected 4 \(b h w c\)"),
        ("b h -> b", [(1, 2, 3)], r"input 0 has 3 axes \(1, 2, 3\), expected 2 \(b h\)"),
        ("... n d -> n", [(3,)], r"input 0 has 1 axes \(3,\), expected at least 2 \(n d\)"),
        ("n, n -> n", [(3,), None], "input 1 is None, but it is needed"),
        ("n, n -> n", [(3,)], "takes 2 arrays, got 1"),
        ("n, n -> n", [(3,), (3,), (3,)], "takes 2 arrays, got 3"),
        ("n, m* -> n", [], "takes 2 arrays, got 0"),
    ],
)
def test_check_says_what_disagrees(text, shapes, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(text).check("f", arrays(*shapes))
    assert text in str(error.value)


def test_a_last_array_may_be_repeated():
    signature = parse("n, n m* -> n")
    assert signature.check("f", arrays((3,), (3, 5))) == {"n": 3, "m": 5}
    assert signature.check("f", arrays((3,), (3, 5), (3, 5), (3, 5))) == {"n": 3, "m": 5}
    with pytest.raises(ValueError, match="axis 'm' is 7 in input 3"):
        signature.check("f", arrays((3,), (3, 5), (3, 5), (3, 7)))


def test_example_gives_every_axis_another_prime():
    signature = parse("... n d, ... m d, b 2? -> ... n m")
    shapes = signature.example()
    (*lead, n, d), (*lead2, m, d2), (b, two) = shapes
    assert lead == lead2 == [2, 3] and d == d2 and two == 2
    assert len({*lead, n, d, m, b}) == 6 and {n, d, m, b} <= set(PRIMES)
    signature.check("f", arrays(*shapes))


def test_example_takes_sizes_and_leading_axes():
    shapes = parse("... n d, m d -> ... n m").example((), n=4, m=5)
    assert shapes == [(4, 2), (5, 2)]
    assert parse("... n d -> ... n").example((7,), d=2) == [(7, 3, 2)]

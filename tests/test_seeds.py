from collections.abc import Callable

from optrepro.config import Config
from optrepro.seeds import derive_seed, fingerprint

Tiny = Callable[..., Config]


def test_a_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2, 3]}) == fingerprint({"b": [2, 3], "a": 1})
    assert fingerprint({"a": 1, "b": [2, 3]}) != fingerprint({"a": 1, "b": [3, 2]})


def test_a_derived_seed_fits_every_generator_and_never_changes() -> None:
    assert all(0 <= derive_seed("x", i) < 2**63 for i in range(1000))
    assert derive_seed(7, "digits/softmax", 0, "test") == 5501847720613906956  # results of a seed stay

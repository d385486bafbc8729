"""Every public view class, discovered in the files, keeps the contract; the check catches views that break it."""

import doctest
import json
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl.core import registry
from medssl.core.errors import MedsslError
from medssl.views import recipes
from medssl.views.base import View, from_plain, take, to_plain
from medssl.views.check import check_view, examples_of
from medssl.views.random import make_keys

VIEWS = registry.VIEWS.classes()


def keys(count: int, seed: int = 0) -> torch.Tensor:
    return make_keys(seed, (torch.arange(count),))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", VIEWS)
def test_every_view_class_keeps_the_contract(name: str, dims: int) -> None:
    for view in examples_of(VIEWS[name], dims):
        if dims in view.dims:
            for probability in {view.probability, 1.0}:
                view.probability = probability
                check_view(view, dims, size=(16,) * dims, channels=view.channels or 2)
        else:
            with pytest.raises(MedsslError, match="expected"):
                view(torch.zeros(2, 1, *[16] * dims), view.draw(keys(2)))


@pytest.mark.parametrize("name", VIEWS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_every_view_takes_any_shape_kind_and_batch(name: str, data: st.DataObject) -> None:
    """Right shape, dtype and finite numbers; sample by sample the same as together; written down and read again too."""
    dims = data.draw(st.sampled_from([2, 3]), "dims")
    view = data.draw(st.sampled_from(examples_of(VIEWS[name], dims)), "view")
    if dims not in view.dims:
        return
    shape = data.draw(st.lists(st.integers(5, 19), min_size=dims, max_size=dims), "shape")
    batch, channels = data.draw(st.integers(1, 4), "batch"), view.channels or data.draw(st.integers(1, 3), "channels")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]), "dtype")
    seed = data.draw(st.integers(0, 2**31), "seed")
    x = torch.rand(batch, channels, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
    params = view.draw(keys(batch, seed))
    try:
        whole = view(x, params)
    except MedsslError:  # a view may state a requirement instead, such as RightAngle's equal edges
        with pytest.raises(MedsslError):
            view(x[:1], take(params, slice(0, 1)))
        return
    assert whole.shape[:2] == x.shape[:2]
    assert whole.dtype == dtype
    assert torch.isfinite(whole).all()
    near = {torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(dtype, 2e-5)
    single = torch.cat([view(x[i : i + 1], take(params, slice(i, i + 1))) for i in range(batch)])
    assert torch.allclose(whole, single, atol=near, rtol=near)
    again = view(x, from_plain(json.loads(json.dumps(to_plain(params), allow_nan=False))))
    assert torch.equal(whole, again)
    assert view.mask(x[:, :1] > 0.5, params).shape[2:] == whole.shape[2:]


@pytest.mark.parametrize("name", VIEWS)
def test_every_view_class_documents_itself_with_an_example_that_runs(name: str) -> None:
    """The example makes a view of the class, or one that holds it, and the view works on a batch."""
    names = run_examples(VIEWS[name])
    assert any(type(part) is VIEWS[name] for part in names["view"].modules())
    x = torch.rand(2, 3, *[24] * max(names["view"].dims))
    assert torch.isfinite(names["view"](x, names["view"].draw(keys(2)))).all()


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_documents_itself_with_an_example_that_runs(name: str) -> None:
    run_examples(recipes.RECIPES[name])


def test_the_example_of_a_view_of_your_own_keeps_the_contract() -> None:
    check_view(run_examples(View)["Scale"](), 3)


def run_examples(documented: object) -> dict:
    """Run the examples in a docstring, with the names of its module; returns the names that they leave."""
    names = dict(vars(sys.modules[documented.__module__]))
    (test,) = doctest.DocTestFinder(recurse=False).find(documented, globs=names)
    assert test.examples, f"{documented.__name__} has no example: expected lines that begin with >>>"
    report: list[str] = []
    result = doctest.DocTestRunner().run(test, out=report.append, clear_globs=False)
    assert not result.failed, "".join(report)
    return test.globs


def test_the_check_catches_every_way_to_break_the_contract() -> None:
    class Base(View):
        def parameters_of(self, keys):
            return {"size": torch.ones(len(keys))}

        def apply_to(self, x, params):
            return x * 2

    class Writes(Base):
        def apply_to(self, x, params):
            return x.mul_(2)

    class Forgetful(Base):
        def parameters_of(self, keys):
            return {"size": torch.rand(len(keys))}

        def apply_to(self, x, params):
            return x * params["size"].reshape(-1, *[1] * (x.ndim - 1))

    class Infinite(Base):
        def apply_to(self, x, params):
            return x / x.flatten(1).amax(1).reshape(-1, *[1] * (x.ndim - 1))

    class Stuck(Base):
        def apply_to(self, x, params):
            return x.detach() * 2

    class Inventive(Base):
        def move_mask(self, mask, params):
            return mask * 5

    class Batchy(Base):
        def apply_to(self, x, params):
            return x - x.mean()

    class Cropping(Base):
        def apply_to(self, x, params):
            return x[..., :-1]

    class Silent(Base):
        def check_input(self, x, params):
            return None

    check_view(Base(), 2)
    for broken, words in {
        Writes: "writes into",
        Forgetful: "draws other",
        Infinite: "not finite",
        Stuck: "gradient|grad",
        Inventive: "invents|mask",
        Batchy: "depends on the other samples",
        Cropping: "different sizes",
        Silent: "accepts",
    }.items():
        with pytest.raises((AssertionError, RuntimeError), match=words):
            check_view(broken(), 2)

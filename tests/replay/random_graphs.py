"""Small random networks, and what a step of A-FAN on them has to give, without a line of mmafan."""
from __future__ import annotations

import dataclasses
import functools
from collections import namedtuple
from typing import NamedTuple, Tuple

import torch
from hypothesis import strategies as st
from mmengine.model import BaseModel
from torch import nn

WIDTH = 4
Pair = namedtuple('Pair', 'first second')


@dataclasses.dataclass
class Held:
    first: torch.Tensor
    second: torch.Tensor


class Call(NamedTuple):
    """One line of a forward: a module by its number, or a function by its name, on earlier values."""
    what: object
    sources: Tuple[int, ...]


class Graph(NamedTuple):
    """A network.

    Attributes:
        modules: Kinds of its modules.
        calls: Lines of its forward; value 0 is the input, value ``k`` what line ``k - 1`` has made.
        tap: Number of the module that is the tap.
    """
    modules: Tuple[str, ...]
    calls: Tuple[Call, ...]
    tap: int


# ---------------------------------------------------------------------- modules
class Halves(nn.Module):
    """Returns a view of its input."""

    def forward(self, x):
        return x.view(len(x), 2, -1).flatten(1)


class Scale(nn.Module):
    """Changes its input in place."""

    def forward(self, x):
        return x.mul_(0.5)


class Block(nn.Module):
    """A block with a shortcut, an activation in place and dropout."""

    def __init__(self):
        super().__init__()
        self.layer, self.act, self.drop = nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(0.1, inplace=True), nn.Dropout(0.3)

    def forward(self, x):
        return self.drop(self.act(self.layer(x))) + x


class Boxing(nn.Module):
    """Returns two values in a container; one of them is its input."""

    def __init__(self, box):
        super().__init__()
        self.layer, self.box = nn.Linear(WIDTH, WIDTH), box

    def forward(self, x):
        return self.box(self.layer(x), x)


KINDS = dict(
    linear=lambda: nn.Linear(WIDTH, WIDTH), dropout=lambda: nn.Dropout(0.3), relu=lambda: nn.LeakyReLU(0.1, True),
    tanh=nn.Tanh, halves=Halves, scale=Scale, block=Block, identity=nn.Identity,
    pair=lambda: Boxing(Pair), held=lambda: Boxing(Held), listed=lambda: Boxing(lambda *both: list(both)),
    named=lambda: Boxing(lambda *both: dict(zip(Pair._fields, both))))
FUNCTIONS = dict(add=lambda a, b: a + b, mul=lambda a, b: a * torch.sigmoid(b), tanh=torch.tanh,
                 noise=lambda a: a + 0.1 * torch.randn_like(a), view=lambda a: a.view(-1, WIDTH),
                 drop=lambda a: nn.functional.dropout(a, 0.3))
BINARY = ('add', 'mul')


def sum_of(value):
    """Add up the tensors of a value; a tensor stays itself."""
    items = items_of(value)
    return sum(items[1:], items[0])


def items_of(value):
    """List the tensors of a value."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, Held):
        return [value.first, value.second]
    return list(value) if isinstance(value, (tuple, list)) else [value]


def with_items(value, items):
    """Make the same kind of value of other tensors."""
    if isinstance(value, dict):
        return dict(zip(value, items))
    if isinstance(value, (Held, Pair)):
        return type(value)(*items)
    return list(items) if isinstance(value, list) else items[0]


def modules_before(graph):
    """Return the numbers of the modules that the tap's input comes from, and that nothing it returns goes to."""
    sources = [set()]  # for each value, the modules it comes from
    after, before, used_after = set(), set(), set()
    for number, (what, given) in enumerate(graph.calls, 1):
        own = set().union(*(sources[source] for source in given), {what})
        if what == graph.tap:
            before |= own
            after.add(number)
        elif after.intersection(given):
            used_after.add(what)
            after.add(number)
        sources.append(own)
    return before - used_after


def make_class(graph):
    """Make the class of models with a forward."""

    class Net(BaseModel):

        def __init__(self):
            super().__init__()
            for number, kind in enumerate(graph.modules):
                setattr(self, f'm{number}', KINDS[kind]())
            self.head = nn.Linear(WIDTH, 1)

        def run(self, x, at_tap=None, suffix_alone=False, before=None):
            """Return the loss.

            Args:
                x: The input.
                at_tap: Gives what the tap returns, asked with a function that runs it.
                suffix_alone: Whether what runs before the tap's first call is a constant.
                before: Gives what each module before that returns, asked as ``at_tap`` is.
            """
            values, used, reached = [x], set(), False
            for what, sources in graph.calls:
                given = [sum_of(values[source]) for source in sources]
                used.update(sources)
                reached = reached or what == graph.tap
                function = getattr(self, f'm{what}') if isinstance(what, int) else FUNCTIONS[what]
                with torch.set_grad_enabled(torch.is_grad_enabled() and (reached or not suffix_alone)):
                    run = functools.partial(function, *given)
                    instead = at_tap if what == graph.tap else before if isinstance(what, int) and not reached else None
                    values.append(run() if instead is None else instead(run))
            left = [item for number, value in enumerate(values) if number not in used for item in items_of(value)]
            return {'loss': self.head(sum(left)).square().mean()}

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.run(inputs)

    return Net


# ---------------------------------------------------------------------- drawing them
@st.composite
def graphs(draw):
    """Draw a network whose first line has weights, so that every module may be the tap."""
    modules, calls = ['linear'], [Call(0, (0, ))]
    for _ in range(draw(st.integers(1, 7))):
        source = st.integers(0, len(calls))
        what = draw(st.sampled_from((*KINDS, *FUNCTIONS, *['again'] * 6)))
        if what in FUNCTIONS:
            calls.append(Call(what, tuple(draw(source) for _ in range(2 if what in BINARY else 1))))
            continue
        number = draw(st.integers(0, len(modules) - 1)) if what == 'again' else len(modules)
        modules += [] if what == 'again' else [what]
        calls.append(Call(number, (draw(source), )))
    return Graph(tuple(modules), tuple(calls), draw(st.integers(0, len(modules) - 1)))


# ---------------------------------------------------------------------- what is right
def gradients_of(model):
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()
            if parameter.grad is not None}


def stock_step(model, x, seed):
    """Return loss, gradients and random stream of a step of the stock model, and whether its tap has a gradient.

    Raises:
        RuntimeError: If autograd refuses the network, for what it changes in place.
    """
    model.zero_grad()
    torch.manual_seed(seed)
    flags = []

    def note(run):
        value = run()
        flags.extend(item.requires_grad for item in items_of(value))
        return value

    loss = model.run(x.clone(), note)['loss']
    loss.backward()
    return float(loss.detach()), gradients_of(model), torch.get_rng_state(), any(flags)


def loss_with(model, x, seed, **instead):
    """Return the loss with something else at the tap or before it."""
    torch.manual_seed(seed)
    with torch.no_grad():
        return float(model.run(x.clone(), **instead)['loss'])


def copied(run):
    """Copy what the tap returns, so that what is done to it in place changes nothing else."""
    value = run()
    return with_items(value, [item.clone() for item in items_of(value)])


def apart(run):
    """Let a module run on copies, so that what it does in place changes nothing else either."""
    return run.func(*(value.clone() for value in run.args))


def suffix_gradients(model, graph, x, seed):
    """Gradients of a pass in which what the tap returns is a constant, as is what comes before it."""
    model.zero_grad()
    torch.manual_seed(seed)
    held = [p for number in modules_before(graph) if isinstance(number, int)
            for p in getattr(model, f'm{number}').parameters()]
    for parameter in held:
        parameter.requires_grad_(False)

    def constant(run):
        value = run()
        return with_items(value, [item.detach().clone() for item in items_of(value)])

    model.run(x.clone(), constant, suffix_alone=True)['loss'].backward()
    for parameter in held:
        parameter.requires_grad_(True)
    return gradients_of(model)

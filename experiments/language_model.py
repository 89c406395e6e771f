"""A small language model learns names of one language, then of others: writes files/results/language_model.json.

    python experiments/language_model.py              seeds 0, 1, 2: about eight minutes on one core
    python experiments/language_model.py --seeds 0    this seed alone; several processes may share the work

Notebook 10 takes its model, data and loop from here. Names come from files/data/names, one language a task; the first
token tells the language, then letter after letter is predicted. What is measured is the mean of −log p over letters,
in nats, on names held out: on validation names, by which λ may be chosen, and on test names.

Every method takes 300 steps of Adam a language, joint training as many as all languages together. L2 is EWC with the
mean of F in place of each entry. Low-rank adapters are those of Hu et al. 2021 (arXiv:2106.09685), merging by F is that
of Matena and Raffel 2022 (arXiv:2111.09832). Every run is written as soon as it is complete.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import results
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from contlearn import EWC, kronecker_fisher
from contlearn.fisher import KroneckerFisher, uniform

NAMES = Path(__file__).parent.parent / "files" / "data" / "names"
LANGUAGES = ("Italian", "Turkish", "Finnish", "Irish")  # in the order in which they are learnt
LETTERS = ".abcdefghijklmnopqrstuvwxyz"  # the point closes a name
TOKENS = len(LETTERS) + len(LANGUAGES)  # behind the letters stands one token a language, which opens its names
LONGEST = 16  # letters of a name and the closing point
STEPS, BATCH, RATE = 300, 64, 0.002


class Transformer(nn.Module):
    """Logits (N, T, 31) of each next token, from the tokens (N, T) up to it."""

    def __init__(self, width: int = 64, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.letter = nn.Embedding(TOKENS, width)
        self.place = nn.Embedding(LONGEST, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, letters: Tensor) -> Tensor:
        """Letters and places become vectors; the blocks mix them; the head compares."""
        places = torch.arange(letters.shape[1], device=letters.device).expand_as(letters)
        logits: Tensor = self.head(self.norm(self.blocks(self.letter(letters) + self.place(places))))
        return logits


class Block(nn.Module):
    """Each place looks back at the places before it, then thinks for itself; both are added to what it was."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.look, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) to the same shape."""
        n, t, width = x.shape
        query, key, value = self.look(self.norm_1(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.gather(seen.transpose(1, 2).reshape(n, t, width))
        y: Tensor = x + self.think(self.norm_2(x))
        return y


class Part(NamedTuple):
    """Letters (N, T) and, for each place, the letter that follows (N, T); −100 behind the end of a name."""

    letters: Tensor
    following: Tensor


class Language(NamedTuple):
    """A task."""

    name: str
    train: Part
    validation: Part
    test: Part


def opening(name: str) -> int:
    """The token that tells the language."""
    return len(LETTERS) + LANGUAGES.index(name)


def load(name: str) -> Language:
    """The names of a language in a fixed random order: a tenth of them to validate, a fifth to test."""
    words = (NAMES / f"{name.lower()}.txt").read_text(encoding="utf-8").split()
    order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()
    letters, following = torch.zeros(len(words), LONGEST, dtype=torch.long), torch.full((len(words), LONGEST), -100)
    letters[:, 0] = opening(name)
    for row, k in enumerate(order):
        codes = torch.tensor([LETTERS.index(letter) for letter in words[k]])
        letters[row, 1 : len(codes) + 1] = codes
        following[row, : len(codes) + 1] = torch.cat((codes, torch.zeros(1, dtype=torch.long)))
    sizes = [len(words) - 3 * (len(words) // 10), len(words) // 10, 2 * (len(words) // 10)]
    parts = zip(letters.split(sizes), following.split(sizes), strict=True)
    return Language(name, *(Part(*part) for part in parts))


def token_loss(logits: Tensor, following: Tensor, reduction: str = "mean") -> Tensor:
    """−log p of the letters that follow, eq. (10.1); places with −100 are left out."""
    return cross_entropy(logits.flatten(0, -2), following.flatten(), reduction=reduction)


@torch.no_grad()
def nats(model: nn.Module, part: Part) -> float:
    """The mean of −log p over the letters of a part, in nats."""
    return token_loss(model(part.letters), part.following).item()


@torch.no_grad()
def write(model: nn.Module, language: str, count: int, seed: int = 0) -> list[str]:
    """Names that the model makes up: letter after letter, each drawn from what it predicts."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.full((count, 1), opening(language))
    for _ in range(LONGEST - 1):
        p = model(letters)[:, -1, : len(LETTERS)].softmax(-1)
        letters = torch.cat((letters, torch.multinomial(p, 1, generator=generator)), 1)
    return ["".join(LETTERS[k] for k in row).split(".")[0] for row in letters[:, 1:].tolist()]


def learn(model: nn.Module, part: Part, steps: int = STEPS, seed: int = 0, ewc: EWC | None = None) -> None:
    """Adam on random batches; the learning rate falls along half a cosine to zero."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=RATE)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(part.letters), (BATCH,), generator=generator)
        optimizer.zero_grad()
        token_loss(model(part.letters[batch]), part.following[batch]).backward()
        if ewc is not None:
            ewc.add_gradient(model)
        optimizer.step()
        scheduler.step()


def drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """For each place a letter from the model's own prediction."""
    return torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]


def diagonal_of_tokens(model: nn.Module, part: Part, seed: int = 0, empirical: bool = False) -> dict[str, Tensor]:
    """F, one name at a time: a letter drawn for every place (or the true ones, if empirical), all sent back at once,
    squared, divided by the places: eq. (10.3).
    """
    generator = torch.Generator().manual_seed(seed)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fisher, places = {name: torch.zeros_like(p) for name, p in trained.items()}, 0
    for letters, following in zip(*part, strict=True):
        logits = model(letters[None])[0][following >= 0]
        loss = token_loss(logits, following[following >= 0] if empirical else drawn(logits, generator), "sum")
        for f, g in zip(fisher.values(), torch.autograd.grad(loss, list(trained.values())), strict=True):
            f += g.square()
        places += len(logits)
    return {name: f / places for name, f in fisher.items()}


def kronecker_of_tokens(model: nn.Module, part: Part, seed: int = 0) -> KroneckerFisher:
    """The library's factors, with one draw for all places of a name."""
    batches = list(zip(*(t.split(100) for t in part), strict=True))
    generator = torch.Generator().manual_seed(seed)
    return kronecker_fisher(model, batches, "sample", generator=generator, progress=False)


class Adapted(nn.Module):
    """A linear layer that is frozen, and beside it a product of two thin matrices, which begins at zero."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """W x + b + U D x, eq. (10.4)."""
        z: Tensor = self.layer(x) + x @ self.down.T @ self.up.T
        return z


def adapt(model: nn.Module, rank: int) -> nn.Module:
    """A frozen copy of the model with an adapter at every linear layer."""
    adapted = copy.deepcopy(model).requires_grad_(False)
    for parent in list(adapted.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, Adapted(child, rank))
    return adapted


def merged(models: Sequence[nn.Module], weights: Sequence[Mapping[str, Tensor]]) -> nn.Module:
    """Σ F_k θ_k / Σ F_k, eq. (10.5)."""
    model = copy.deepcopy(models[0])
    own = [dict(each.named_parameters()) for each in models]
    with torch.no_grad():
        for name, p in model.named_parameters():
            f = torch.stack([w[name] + 1e-10 for w in weights])
            p.copy_((f * torch.stack([o[name] for o in own])).sum(0) / f.sum(0))
    return model


IMPORTANCES = (30, 100, 300, 1000)
MANY = {"unprotected": 0, "L2": 100, "EWC": 100, "Kronecker": 100}  # λ of the second task's validation names
RANKS = (1, 4, 16)
SEEDS = (0, 1, 2)


def main() -> None:
    """Every method with every seed, but what the file holds."""
    asked = results.asked(__doc__ or "", SEEDS)
    settings = {"steps": STEPS, "batch_size": BATCH, "learning_rate": RATE, "languages": LANGUAGES, "seeds": SEEDS}
    runs = results.Runs("language_model", asked.again, **settings)
    tasks = [load(name) for name in LANGUAGES]
    for seed in asked.seeds:
        one_seed(runs, tasks, seed)


def one_seed(runs: results.Runs, tasks: list[Language], seed: int) -> None:
    """Italian, then Turkish in every way; then all four languages."""
    first, second = tasks[0], tasks[1]

    def keep(method: str, made: Callable[[], nn.Module], importance: float | None = None, many: int = 2) -> None:
        key = {"method": method, "importance": importance, "seed": seed, "tasks": many}

        def measured() -> dict[str, Any]:
            model = made()
            parts = {part: [getattr(task, part) for task in tasks[:many]] for part in ("validation", "test")}
            return {part: [round(nats(model, each), 5) for each in own] for part, own in parts.items()}

        runs.once(key, measured)

    def learnt(model: nn.Module, ewc: EWC | None = None) -> nn.Module:
        """The second language."""
        learn(model, second.train, seed=seed + 100, ewc=ewc)
        return model

    torch.manual_seed(seed)
    start = Transformer()
    untrained = copy.deepcopy(start)
    keep("untrained", lambda: untrained)
    learn(start, first.train, seed=seed)
    keep("first alone", lambda: start)
    diagonal = diagonal_of_tokens(start, first.train, seed)
    fishers: dict[str, dict[str, Tensor] | KroneckerFisher] = {
        "L2": uniform(diagonal),
        "EWC": diagonal,
        "Kronecker": kronecker_of_tokens(start, first.train, seed),
    }
    unprotected = learnt(copy.deepcopy(start))
    keep("unprotected", lambda: unprotected)
    for method, fisher in fishers.items():
        for importance in IMPORTANCES:
            ewc = EWC(importance, structure="kronecker" if method == "Kronecker" else "diagonal")
            ewc.add(fisher, dict(start.named_parameters()))
            keep(method, partial(lambda ewc: learnt(copy.deepcopy(start), ewc), ewc), importance)
    for rank in RANKS:
        torch.manual_seed(seed)
        free = adapt(start, rank)
        trained = {name: p for name, p in free.named_parameters() if p.requires_grad}
        of_adapters, zero = diagonal_of_tokens(free, first.train, seed), copy.deepcopy(trained)
        for importance in IMPORTANCES:
            ewc = EWC(importance)
            ewc.add(of_adapters, zero)
            made = partial(lambda free, ewc: learnt(copy.deepcopy(free), ewc), free, ewc)
            keep(f"adapters of rank {rank} with EWC", made, importance)
        keep(f"adapters of rank {rank}", partial(learnt, free))
    both = [diagonal, diagonal_of_tokens(unprotected, second.train, seed)]
    keep("merged by F", lambda: merged([start, unprotected], both))
    keep("merged by the mean", lambda: merged([start, unprotected], [uniform(diagonal)] * 2))

    def together(many: int) -> nn.Module:
        torch.manual_seed(seed)
        model = Transformer()
        learn(model, Part(*map(torch.cat, zip(*(t.train for t in tasks[:many]), strict=True))), many * STEPS, seed)
        return model

    for many in (2, len(tasks)):
        keep("joint training", partial(together, many), many=many)

    def in_turn(method: str, strength: float) -> nn.Module:
        model = copy.deepcopy(start)
        ewc = EWC(strength, anchor="latest", structure="kronecker" if method == "Kronecker" else "diagonal")
        for k, task in enumerate(tasks):
            if k:
                learn(model, task.train, seed=seed + 100 * k, ewc=ewc)
            if strength and k < len(tasks) - 1:
                found: Any = (kronecker_of_tokens if method == "Kronecker" else diagonal_of_tokens)(
                    model, task.train, seed
                )
                ewc.add(uniform(found) if method == "L2" else found, dict(model.named_parameters()))
        return model

    for method, strength in MANY.items():
        keep(method, partial(in_turn, method, strength), strength, many=len(tasks))


if __name__ == "__main__":
    main()

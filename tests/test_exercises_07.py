"""The checks of notebook 07 accept right answers, name the typical mistakes, and survive anything."""

import pytest
import torch
from exercise_tests import over, verdict


def kronecker_block(a, g):
    return torch.kron(torch.outer(g, g), torch.outer(a, a))


def factors(a, g):
    return a.T @ a / len(a), sum(g_c.T @ g_c for g_c in g) / len(a)


def penalty(delta, A, G, importance):
    return 0.5 * importance * (delta * (G @ delta @ A)).sum()


def step(delta, A, G, strength):
    system = torch.eye(delta.numel(), dtype=delta.dtype) + strength * torch.kron(G, A)
    return torch.linalg.solve(system, delta.flatten()).view_as(delta)


def eigen_step(delta, A, G, strength, turn=True, back=True, one=1.0, join=torch.outer):
    (a, q_a), (g, q_g) = torch.linalg.eigh(A), torch.linalg.eigh(G)
    inside = q_g.T @ delta @ q_a if turn else delta
    shrunk = inside / (one + strength * join(g, a))
    return q_g @ shrunk @ q_a.T if back else shrunk


FUNCTIONS = {"check_7_2": kronecker_block, "check_7_3": factors, "check_7_4": penalty, "check_7_5": step}
VALUES = {"check_7_1": (1.9, 0.1)}


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("check_7_1", [7.6 / 4, 0.4 / 4]),
        ("check_7_1", torch.tensor([1.9, 0.1])),
        ("check_7_2", lambda a, g: torch.outer(torch.outer(g, a).flatten(), torch.outer(g, a).flatten())),
        ("check_7_3", lambda a, g: list(factors(a, g))),
        ("check_7_3", lambda a, g: (torch.einsum("ni,nj->ij", a, a) / 4, torch.einsum("cno,cnp->op", g, g) / 4)),
        ("check_7_4", lambda d, A, G, k: 0.5 * k * torch.trace(d.T @ G @ d @ A)),
        ("check_7_4", lambda d, A, G, k: float(0.5 * k * d.flatten() @ torch.kron(G, A) @ d.flatten())),
        ("check_7_5", eigen_step),
    ],
)
def test_other_right_answers(capsys, check, answer):
    assert verdict(capsys, check, answer).startswith("Right")


MISTAKES = [
    ("check_7_1", "swapped", (0.1, 1.9)),
    ("check_7_1", "divide by what the diagonal", (7.6, 0.4)),
    ("check_7_1", "turn the fractions round", (4 / 7.6, 4 / 0.4)),
    ("check_7_1", "counts once", (5.8 / 4, 2.2 / 4)),
    ("check_7_1", "the ½ stands in both", (3.8 / 4, 0.2 / 4)),
    ("check_7_1", "against itself", (1.0, 1.0)),
    ("check_7_1", "expected a tensor of shape (2,), got a single number", 1.9),
    ("check_7_2", "order of columns", lambda a, g: torch.kron(torch.outer(a, a), torch.outer(g, g))),
    ("check_7_2", "gradient g aᵀ itself", lambda a, g: torch.outer(g, a)),
    ("check_7_2", "flattened gradient", lambda a, g: torch.kron(g, a)),
    ("check_7_2", "diagonal of the block only", lambda a, g: torch.outer(g, a).flatten() ** 2),
    ("check_7_2", "all but the diagonal is zero", lambda a, g: (torch.outer(g, a).flatten() ** 2).diag()),
    (
        "check_7_3",
        "outer products of the means",
        lambda a, g: (torch.outer(a.mean(0), a.mean(0)), torch.outer(g.sum(0).mean(0), g.sum(0).mean(0))),
    ),
    ("check_7_3", "A is still the outer", lambda a, g: (torch.outer(a.mean(0), a.mean(0)), factors(a, g)[1])),
    (
        "check_7_3",
        "G is still the outer",
        lambda a, g: (factors(a, g)[0], torch.outer(g.sum(0).mean(0), g.sum(0).mean(0))),
    ),
    ("check_7_3", "√p_c has weighted", lambda a, g: (factors(a, g)[0], factors(a, g)[1] / len(g))),
    ("check_7_3", "adds up the labels", lambda a, g: (factors(a, g)[0], g.sum(0).T @ g.sum(0) / len(a))),
    ("check_7_3", "these are sums", lambda a, g: (a.T @ a, sum(g_c.T @ g_c for g_c in g))),
    ("check_7_3", "A is a sum", lambda a, g: (a.T @ a, factors(a, g)[1])),
    ("check_7_3", "G is a sum", lambda a, g: (factors(a, g)[0], sum(g_c.T @ g_c for g_c in g))),
    ("check_7_3", "changed places", lambda a, g: factors(a, g)[::-1]),
    ("check_7_3", "got a single number", lambda a, g: 3.0),
    ("check_7_3", "got tuple", lambda a, g: (a, g, "third")),
    ("check_7_4", "½ is missing", lambda d, A, G, k: k * (d * (G @ d @ A)).sum()),
    ("check_7_4", "λ is missing", lambda d, A, G, k: 0.5 * (d * (G @ d @ A)).sum()),
    ("check_7_4", "diagonal's penalty", lambda d, A, G, k: 0.5 * k * (G.diagonal() @ d.square() @ A.diagonal())),
    ("check_7_4", "A is missing", lambda d, A, G, k: 0.5 * k * (d * (G @ d)).sum()),
    ("check_7_4", "G is missing", lambda d, A, G, k: 0.5 * k * (d * (d @ A)).sum()),
    ("check_7_4", "the sum is missing", lambda d, A, G, k: 0.5 * k * d * (G @ d @ A)),
    ("check_7_4", "this squares", lambda d, A, G, k: 0.5 * k * (G @ d @ A).square().sum()),
    ("check_7_4", "this is the gradient", lambda d, A, G, k: k * G @ d @ A),
    ("check_7_5", "plain descent", lambda d, A, G, k: d - k * G @ d @ A),
    ("check_7_5", "still in the eigenbases", lambda d, A, G, k: eigen_step(d, A, G, k, back=False)),
    ("check_7_5", "1 in the denominator", lambda d, A, G, k: eigen_step(d, A, G, k, one=0.0)),
    (
        "check_7_5",
        "not sums",
        lambda d, A, G, k: eigen_step(d, A, G, k, join=lambda g, a: g[:, None] + a),
    ),
    ("check_7_5", "diagonal's step", lambda d, A, G, k: d / (1 + k * torch.outer(G.diagonal(), A.diagonal()))),
    ("check_7_5", "without turning", lambda d, A, G, k: eigen_step(d, A, G, k, turn=False, back=False)),
    ("check_7_5", "strength is missing", lambda d, A, G, k: eigen_step(d, A, G, 1.0)),
]

test_untouched, test_right, test_mistakes_are_named, test_an_answer_that_raises = over(FUNCTIONS, VALUES, MISTAKES)


def test_a_step_turned_the_wrong_way_is_named(capsys):
    def wrong_way(delta, A, G, strength):
        (a, q_a), (g, q_g) = torch.linalg.eigh(A), torch.linalg.eigh(G)
        return q_g.T @ ((q_g @ delta @ q_a.T) / (1 + strength * torch.outer(g, a))) @ q_a

    assert "wrong way round" in verdict(capsys, "check_7_5", wrong_way)


@pytest.mark.parametrize("check", FUNCTIONS)
def test_an_answer_that_raises_is_no_crash(capsys, check):
    def broken(*arguments):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    assert "stopped with RuntimeError" in verdict(capsys, check, broken)


@pytest.mark.parametrize("check", FUNCTIONS | VALUES)
@pytest.mark.parametrize("odd", ["a word", torch.zeros(7), {}, object(), (1, 2), (torch.zeros(1), "x")])
def test_any_other_answer_gets_a_verdict(capsys, check, odd):
    answer = (lambda *arguments: odd) if check in FUNCTIONS else odd
    assert verdict(capsys, check, answer).startswith("Not yet")

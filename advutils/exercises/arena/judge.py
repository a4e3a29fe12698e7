"""The judge of the arena: what is checked of a submission, and what became of each image."""

import secrets
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch

from advutils.certify import margin_bounds
from advutils.evaluation import wilson
from advutils.exercises.arena.defence import Defence, counted, fingerprint
from advutils.exercises.arena.defences import DEFENCES
from advutils.utils import validation
from advutils.utils.inference import predict_logits
from advutils.utils.traits import seeded

WRONG, BROKEN, NOT_YET, PROVED = "wrong at first", "broken", "not yet broken", "provably unbreakable"
REJECTED = 10  # the class of a detector that says "this image was attacked"
HINT = 0.05  # what a hint costs
BROKEN_BELOW = 0.1  # of its claim: a defence of which less is left counts as broken
NOT_GUARANTEED = (
    "that an attack kept its budget: images do not tell how they were made, and a function can open the defence anew, "
    "or take the counter off",
    "that a score of the learner's own session is true: code in that session can patch PyTorch or the judge. Score the "
    "files again, in a session of yours",
    "that the learner made the images, or that the number of hints in a file is true: both can be copied or edited",
    "that a randomised defence is judged alike twice, but for the same seed",
)


@dataclass(frozen=True)
class Verdict:
    """What the judge found: the fate of each image, and the score.

    `status` holds for each image "wrong at first", "broken", "not yet broken" or "provably unbreakable". `claim` is
    that of the authors, in percent. `notes` are sentences on draws and proofs. `best` is the best score on the
    learner's board, None where no board is kept.
    """

    name: str
    status: tuple[str, ...]
    hints: int
    seed: int
    claim: float
    notes: tuple[str, ...] = ()
    best: float | None = None

    @property
    def score(self) -> float:
        """Broken images as a share of those that were right at first and are not proved, less 0.05 for each hint."""
        count = Counter(self.status)
        return max(0.0, count[BROKEN] / max(1, count[BROKEN] + count[NOT_YET]) - HINT * self.hints)

    @property
    def outcome(self) -> str:
        """Whether the defence counts as broken: less than a tenth of its claim is left, proved images included."""
        left = sum(word in (NOT_YET, PROVED) for word in self.status)
        if 100 * left < BROKEN_BELOW * self.claim * len(self.status):
            return f"counts as broken: {left} left, fewer than {BROKEN_BELOW:.0%} of the claim"
        return f"does not count as broken: {left} left, {BROKEN_BELOW:.0%} of the claim or more"

    def __repr__(self) -> str:
        count = Counter(self.status)
        rows = {"right at first": len(self.status) - count[WRONG]} | {s: count[s] for s in (BROKEN, NOT_YET, PROVED)}
        score = f"{self.score:.2f}" + (f", with {HINT * self.hints:.2f} off for hints" if self.hints else "")
        best = "" if self.best is None else f"   best so far: {self.best:.2f}"
        lines = [self.name, *(f"  {label:22}{n:4}" for label, n in rows.items()), f"  score: {score}{best}"]
        lines.append(f"  {self.outcome}")
        return "\n".join([*lines, *self.notes])


def open_defence(name: str) -> Defence:
    """A defence, fresh: its model, images and labels belong to the caller and are not those of the judge.

    Args:
        name: as in `table()`.

    Returns:
        Defence, on the CPU.

    Raises:
        ValueError: a name that is not in the table, or weights, images or labels other than those that were published.

    Taught in 14_break_the_defence.ipynb.
    """
    build = DEFENCES[validation.one_of(name, "name", DEFENCES)]
    with torch.random.fork_rng():  # networks are made with random weights before they get their own
        defence = build()
    if fingerprint(defence.model, defence.x, defence.y) != defence.sha256:
        raise ValueError(
            f"name: got {name!r}, whose weights, images or labels are not those of its sha256; accepts them as they "
            "were published (start a new session, or install the package anew)"
        )
    return defence


def judge(
    name: str, submission: torch.Tensor | Callable, *, hints: int = 0, seed: int | None = None
) -> tuple[Verdict, torch.Tensor]:
    """Judge images, or an attack that makes them, against a defence that the judge opens for itself.

    Args:
        name: as in `table()`.
        submission: images (N, 1, 28, 28), float32 in [0, 1], each within eps of its original; or an attack
            `(model, x, y, *, eps) -> images`, which must keep the budget of the defence.
        hints: how many were taken, 0 to 3.
        seed: of the noise of a randomised defence; drawn anew if None, so that no image can be made for it.

    Returns:
        (Verdict, the images that were judged).

    Raises:
        TypeError, ValueError: what is no such submission, or an attack beyond its budget; the message says which.
        RuntimeError: an image that a proof protects is broken, so that the proof is wrong.
    """
    hints = validation.count(hints, "hints", least=0, most=3)
    seed = secrets.randbelow(2**31) if seed is None else validation.count(seed, "seed", least=0)
    images = attacked(name, submission) if callable(submission) else submission
    defence = open_defence(name)
    images = checked(images, defence)
    x, y = defence.x, defence.y
    right = (readings(defence, x, 0) == y).float().mean(0) > 0.5
    read = readings(defence, images, seed)
    misread = (read != y) & (read != REJECTED)  # (draws, N)
    broken = right & (misread.float().mean(0) > 0.5)
    proved = proofs(defence)
    if (proved & (broken | ~right)).any():
        raise RuntimeError(f"{name}: an image is misread that a proof protects; please report it with your images")
    fate = {PROVED: proved, BROKEN: broken, NOT_YET: right}
    status = tuple(next((word for word, those in fate.items() if those[at]), WRONG) for at in range(len(x)))
    notes = (*_on_draws(misread[:, right]), *_on_proofs(defence, proved))
    return Verdict(name, status, hints, seed, defence.claim, notes), images


def attacked(name, attack):
    """The images that an attack makes of a defence of its own; what it does to that one does not reach the judge."""
    defence = open_defence(name)
    with torch.random.fork_rng(), counted(defence) as model:
        torch.manual_seed(0)
        return seeded(attack, 0)(model, defence.x, defence.y, eps=defence.eps)


def checked(images, defence):
    """The images on the CPU; raise unless they are what a submission must be. Distances are taken in float64."""
    if type(images) is not torch.Tensor:  # a subclass may lie about its values
        raise TypeError(f"images: got {type(images).__name__}; accepts a torch.Tensor, or an attack that returns one")
    images = images.detach().cpu()
    validation.images(images, "images")
    if images.shape != defence.x.shape:
        raise ValueError(f"images: got shape {tuple(images.shape)}; accepts {tuple(defence.x.shape)}, all in order")
    distance = (images.double() - defence.x.double()).abs().flatten(1).amax(1)
    if distance.max() > defence.eps + 1e-6:
        at = int(distance.argmax())
        raise ValueError(
            f"images: got image {at} at a distance of {distance[at]:.6g} from the original of {defence.name!r}; "
            f"accepts at most eps = {defence.eps:g} in each pixel"
        )
    return images


def readings(defence, images, seed):
    """The class that the model reads in each image in each draw, int64 (draws, N); the global random state is kept."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.stack([predict_logits(defence.model, images).argmax(1) for _ in range(defence.draws)])


def proofs(defence):
    """Which images are proved to be read as their label in the whole ball, bool (N,); none without a certificate."""
    if defence.certificate is None:
        return torch.zeros(len(defence.x), dtype=torch.bool)
    return defence.certificate(defence.model, defence.x, defence.y, eps=defence.eps)


def _on_draws(misread):
    """The rule for a randomised defence, and how many images may be judged otherwise another time."""
    if len(misread) == 1:
        return
    shares = [wilson(image) for image in misread.T]
    unsure = sum(share.low <= 0.5 <= share.high for share in shares)
    yield f"An image is broken if more than half of its {len(misread)} readings, each with fresh noise, are wrong."
    yield f"For {unsure} of {len(shares)} images the 95% interval of that share holds one half: there chance decides."


def _on_proofs(defence, proved):
    """That proofs exist, and one of them: how far the true logit stays above each other one in the whole ball."""
    if not proved.any():
        return
    at = int(proved.nonzero()[0])
    label = int(defence.y[at])
    with torch.no_grad():
        bounds = margin_bounds(defence.model, defence.x[at : at + 1], defence.y[at : at + 1], eps=defence.eps)[0]
    least = ", ".join(f"{k}: {bound:.2f}" for k, bound in enumerate(bounds.tolist()) if k != label)
    yield f"A proof exists for {int(proved.sum())} images: no image within eps = {defence.eps:g} of them is misread."
    yield f"For image {at}, the least that its logit of {label} can be above each other logit: {least}."

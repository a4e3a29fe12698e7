"""Training, evaluation and attack from a command line: the functions of the package, with their arguments typed.

Under `torchrun -m advutils ...` or `accelerate launch -m advutils ...` the same commands run in many processes.
"""

import argparse
import sys
from pathlib import Path

from advutils.budgets import MINIMUM_NORM
from advutils.cli.arena import arena_command
from advutils.cli.attack import attack_command
from advutils.cli.common import ACCEPTED, ATTACKS, BACKGROUNDS, BUILDERS, in_words, number
from advutils.cli.evaluate import evaluate_command
from advutils.cli.grade import grade_command
from advutils.cli.train import train_command
from advutils.objectives import OBJECTIVES
from advutils.utils import distributed


def main(arguments=None):
    """Run one command; what is wrong with its arguments is said in one line."""
    chosen = parser().parse_args(arguments)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal cannot show must not end the run
    distributed.init_process_group()
    try:
        return chosen.run(chosen)
    except KeyboardInterrupt:
        sys.exit(f"advutils {chosen.command}: stopped")
    except (OSError, ValueError, TypeError, FloatingPointError, RuntimeError, ImportError) as error:
        if chosen.traceback:
            raise
        sys.exit(f"advutils {chosen.command}: {in_words(error)}")


def parser():
    top = argparse.ArgumentParser(
        prog="python -m advutils",
        description="Train an image classifier, evaluate how robust it is, attack it.",
        epilog="Many processes: torchrun --nproc-per-node 2 -m advutils train ... (accelerate launch works as well).",
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data, attacked = data_options(), attacked_options()
    add_train(commands.add_parser("train", parents=[data], help="train a model and save its weights"))
    add_evaluate(commands.add_parser("evaluate", parents=[data, attacked], help="measure clean and robust accuracy"))
    add_attack(commands.add_parser("attack", parents=[data, attacked], help="write adversarial images"))
    add_grade(commands.add_parser("grade", help="points for the exercises of a submitted notebook"))
    add_arena(commands.add_parser("arena", help="scores for broken defences, from the files of a class"))
    return top


def data_options():
    """What every command can be told about its data."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--data", default="mnist-5k", metavar="DATA", help=f"{ACCEPTED}, as in 'shards-*.tar' (default: %(default)s)"
    )
    common.add_argument("--size", type=int, help="side in pixels to which images of a folder or tar file are cut")
    common.add_argument("--channels", type=int, choices=(1, 3), help="of such images (default: the model's, else 3)")
    common.add_argument("--background", choices=BACKGROUNDS, default="white", help="behind what is transparent")
    common.add_argument("--batch-size", type=int, default=128, help="of all processes together (default: %(default)s)")
    common.add_argument("--workers", type=int, default=0, help="processes that read images ahead (default: none)")
    common.add_argument("--limit", type=int, help="only so many images, spread over the data")
    common.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
    return common


def attacked_options():
    """What the commands that attack a model need: the model, and how far."""
    attacked = argparse.ArgumentParser(add_help=False)
    attacked.add_argument(
        "--model",
        required=True,
        metavar="MODEL",
        help="a file that `train` wrote, torchvision:NAME (pretrained, as in torchvision:vgg16_bn), or "
        "module:factory, your own function that returns a model",
    )
    attacked.add_argument("--eps", type=number, default=0.1, help="radius in pixel units, 0.1 or 8/255 (default: 0.1)")
    return attacked


def add_train(train):
    train.add_argument("--out", type=Path, required=True, help="the file to write, ending in .safetensors")
    train.add_argument("--architecture", choices=BUILDERS, default="vgg", help="(default: %(default)s)")
    train.add_argument("--depth", type=int, choices=(11, 13, 16, 19), default=16, help="of the VGG (default: 16)")
    train.add_argument("--width", type=float, default=0.25, help="multiplies its channels (default: %(default)s)")
    train.add_argument("--contrast", type=float, help="slope of a contrast layer in place of the normalisation")
    train.add_argument("--objective", choices=OBJECTIVES, default="clean", help="(default: %(default)s)")
    train.add_argument("--eps", type=number, help="radius of the training attack, or of ibp's box, as 0.1 or 8/255")
    train.add_argument("--steps", type=int, help="of the training attack, for adversarial and trades")
    train.add_argument("--epochs", type=int, default=5, help="(default: %(default)s)")
    train.add_argument("--lr", type=float, default=3e-3, help="the highest of the cycle (default: %(default)s)")
    train.add_argument("--eps-warmup", type=float, default=0, help="epochs over which eps grows (default: %(default)s)")
    train.add_argument("--ema-decay", type=float, help="decay of averaged weights, 0.999 for one")
    train.add_argument("--shift", action="store_true", help="move training images by up to two pixels")
    train.add_argument("--seed", type=int, default=0, help="of weights, order and noise (default: %(default)s)")
    train.add_argument("--sync-batchnorm", action="store_true", help="batch norm over all processes; needs GPUs")
    train.set_defaults(run=train_command)


def add_evaluate(evaluate):
    evaluate.add_argument(
        "--attack",
        action="append",
        metavar="ATTACK",
        default=[],
        help=f"{', '.join(ATTACKS)}, with options as in pgd:steps=40,restarts=2; may be repeated, and grey is always "
        "among them",
    )
    evaluate.add_argument("--cascade", action="store_true", help="each attack gets only what those before it have left")
    evaluate.add_argument(
        "--minimum-norm",
        action="append",
        metavar="ATTACK",
        default=[],
        help=f"{', '.join(MINIMUM_NORM)}, with options as in fmn:norm=linf: the smallest change for each image, "
        "its median, and the share of images that need more than --eps",
    )
    evaluate.add_argument("--certify", action="store_true", help="add the share of images that no attack can change")
    evaluate.add_argument("--out", type=Path, help="a JSON file to write")
    evaluate.set_defaults(run=evaluate_command)


def add_attack(attack):
    attack.add_argument("--attack", default="pgd", metavar="ATTACK", help="as for `evaluate` (default: %(default)s)")
    attack.add_argument("--target", type=int, help="the class that the images are to be taken for")
    attack.add_argument(
        "--labels",
        choices=("data", "model"),
        help="an image is led away from its class in the data, or from what the model reads in it "
        "(default: the data's, if they are the model's)",
    )
    attack.add_argument("--out", type=Path, required=True, help="the folder to write; another attack's is refused")
    attack.set_defaults(run=attack_command)


def add_grade(grade):
    grade.add_argument("submission", type=Path, help="an .ipynb file: a learner's copy of a notebook of the series")
    grade.add_argument("--notebook", type=int, help="its number in the series (default: that of its title)")
    grade.add_argument("--seed", type=int, help="of the hidden data, at least 1 (default: drawn anew)")
    grade.add_argument("--seconds", type=float, default=60.0, help="time limit of each exercise (default: 60)")
    grade.add_argument("--out", type=Path, help="a JSON file to write as well")
    grade.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
    grade.set_defaults(run=grade_command)


def add_arena(arena):
    arena.add_argument("action", choices=("score",), help="judge every file again and print a table")
    arena.add_argument("folder", type=Path, help="with a folder for each learner, which holds the files of `submit`")
    arena.add_argument("--seed", type=int, help="of the noise of randomised defences (default: drawn anew)")
    arena.add_argument("--out", type=Path, help="a JSON file to write as well")
    arena.add_argument("--traceback", action="store_true", help="on an error, show where it came from")
    arena.set_defaults(run=arena_command)

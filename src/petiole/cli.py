"""The command ``petiole``: the public verbs, generated from their own typed functions."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Literal

from cyclopts import App, Group, Parameter
from rich.console import Group as Lines
from rich.text import Text

from petiole.allocator import tune_allocator, tune_collector
from petiole.commands.arguments import check_numbers
from petiole.deferred import defer_compiler
from petiole.errors import ConfigError, PetioleError
from petiole.printable import SafeConsole
from petiole.processes import is_main
from petiole.version import __version__

GROUPS = {
    "Train": {
        "fit": "Train one adapter on your data; writes a run folder and an adapter file.",
        "compare": "Several methods on the same data, splits and seeds; paired tests, one page.",
        "backbones": "Which backbone suits these images, and what each costs.",
        "multitask": "Many vision-language tasks in one model: methods x seeds, one table.",
    },
    "Look": {
        "predict": "Label images with an adapter, or ask a language model about them.",
        "eval": "Score an adapter on data that it has not seen.",
        "diff": "Two adapters on the same images: flips both ways, by class and domain, layer by layer.",
        "report": "Write the page of a run or comparison again.",
        "inspect": "Show a backbone's roles, a method's settings, an adapter or a run.",
        "params": "Count parameters and FLOPs of a method, without weights.",
    },
    "Ship": {
        "serve": "Adapters behind an HTTP interface, with a page to try them.",
        "check": "Test an adapter against a contract in TOML; exit code 1 where a line fails.",
        "export": "Write an adapter as ONNX, torch.export, timm, ...: files that need no Petiole.",
        "push-to-hub": "An adapter with a model card on the Hugging Face Hub; hf:OWNER/NAME opens it.",
        "merge": "Put an adapter into the backbone's weights, where mathematics allows.",
        "fold": "Store what prediction needs of an adapter: class vectors, or static weights.",
        "import-dassl": "A checkpoint of CoOp, CoCoOp, MaPLe, IVLP or PromptSRC as an adapter.",
        "sign": "Vouch for an adapter or run with an Ed25519 key.",
        "verify": "Whether the owner of a key vouches for an adapter or run, and it is unchanged.",
        "pair": "Join an image backbone and a sentence encoder into two towers.",
    },
    "Study": {
        "demo": "The main job on real images, offline, in a few minutes.",
        "sweep": "One method at several ranks: how much rank is enough, on how many images.",
        "transfer": "Data sets x backbones x methods x seeds; wins, ties and costs in one table.",
        "generalise": "Train on some classes, test on others by their names: base to novel, other data.",
        "continual": "Data sets learned one after the other: accuracy matrix, forgetting.",
        "few-shot": "Accuracy by the number of labelled images of each class.",
        "plan": "How many draws and seeds a difference needs, from a comparison's spread.",
        "simulate": "How long work takes at another size or on other machines, and what holds it up.",
        "reproduce": "A published table beside ours: claimed, ours, verdict, and what is missing.",
    },
    "Data": {
        "synthesize": "Draw a data set of generated scenes or boards, to try things offline.",
        "label": "Which images of a folder to label next, without any training.",
        "features": "Run images through a frozen backbone into the feature cache, ahead of training.",
        "cache": "List, verify or clean the feature cache.",
        "doctor": "Check this machine and installation.",
    },
}
VERBS = {verb: about for group in GROUPS.values() for verb, about in group.items()}
_FILES = {
    "eval": "evaluate",
    "few-shot": "few_shot",
    "import-dassl": "import_dassl",
    "push-to-hub": "push_to_hub",
}
RESUMING = (
    "demo",
    "fit",
    "compare",
    "transfer",
    "generalise",
    "few-shot",
    "sweep",
    "multitask",
    "continual",
)


def _default(value: Any) -> str | None:
    """A default as the help shows it: not at all where it says nothing."""
    if value is None or value is False or value in ("", (), []):
        return None
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


app = App(
    name="petiole",
    help="Adapt frozen vision and vision-language models with few trained parameters.",
    help_format="plaintext",  # markdown takes a library of its own to print
    help_epilogue="Every command takes --json, to print its result as JSON, and --config FILE: its options in TOML.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main says how to go on
    default_parameter=Parameter(negative=(), show_default=_default),
)
for _order, (_name, _verbs) in enumerate(GROUPS.items()):
    _group = Group(_name, sort_key=_order)
    for _verb, _about in _verbs.items():
        _home = _FILES.get(_verb, _verb)
        # Loaded when called: the root help imports no verb.
        app.command(
            f"petiole.commands.{_home}:{_home}",
            name=_verb,
            help=_about,
            group=_group,
            help_format="markdown",
        )


@app.command(group=_group)  # the last one: Data
def completion(shell: Literal["bash", "zsh", "fish"] = "bash") -> None:
    """Print the script by which a shell completes commands and options.

    bash: petiole completion bash > ~/.local/share/bash-completion/completions/petiole; zsh: into a file _petiole in a
    folder of $fpath; fish: into ~/.config/fish/completions/petiole.fish.

    Args:
        shell: bash, zsh or fish.
    """
    print(app.generate_completion(prog_name="petiole", shell=shell))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Exits with 0; 1 for an error that petiole explains or a result that is not ok; 2 for an unknown
    command or option; 70 for an error that nobody foresaw, with its traceback where ``PETIOLE_DEBUG`` is 1; 130 on
    Ctrl-C. glibc's malloc is set for tensors, unless ``PETIOLE_ALLOCATOR=off``.
    """
    tune_allocator()  # before a command imports torch
    tune_collector()
    defer_compiler()
    tokens = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in tokens
    try:
        configured, tokens = _configured([token for token in tokens if token != "--json"])
        app.config = (*configured, check_numbers)
        result = app(tokens)
        if result is not None and is_main():
            _show(result, as_json)
        ok = getattr(result, "ok", True)
    except BrokenPipeError:  # the reader of a pipe, e.g. head, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except PetioleError as error:
        if is_main() or not error.everywhere:
            _complain(str(error))
        else:
            from petiole.collective import await_main

            await_main()
        sys.exit(1)
    except OSError as error:
        _complain(f"{error}. Check that the place exists, can be written, and has room.")
        sys.exit(1)
    except KeyboardInterrupt:
        again = (
            "Repeat the command with --resume"
            if tokens and tokens[0] in RESUMING
            else "Repeat the command"
        )
        if is_main():
            SafeConsole(stderr=True).print(f"Interrupted. {again} to go on.", soft_wrap=True)
        sys.exit(130)
    except Exception as error:  # the last resort
        _complain(_unforeseen(error))
        if os.environ.get("PETIOLE_DEBUG") == "1":
            traceback.print_exc()
        sys.exit(70)
    finally:
        app.config = ()
    sys.exit(0 if ok else 1)


def _configured(tokens: list[str]) -> tuple[tuple[Any, ...], list[str]]:
    """What gives options from a file, and the command line without its name.

    Raises:
        ConfigError: the file cannot be read, or is not named.
    """
    for i, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            from petiole.commands.config_file import options_from

            _, sign, path = token.partition("=")
            rest = tokens[i + 1 :]
            if not sign:
                if not rest:
                    raise ConfigError("--config names no file.")
                path, rest = rest[0], rest[1:]
            return (options_from(Path(path)),), tokens[:i] + rest
    return (), tokens


def _show(result: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        # A group renders each line by its own rules; a lone text would be wrapped.
        SafeConsole().print(Lines(result), crop=False)


def _unforeseen(error: Exception) -> str:
    """One sentence, and where to report it."""
    said = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return (
        f"petiole did not foresee this ({said}). Report it to the project's issue tracker, with the command and the "
        "traceback that PETIOLE_DEBUG=1 shows."
    )


def _complain(text: str) -> None:
    message = Text("error: ", style="bold red").append(text, style="not bold default")
    SafeConsole(stderr=True).print(message, soft_wrap=True)


if __name__ == "__main__":
    main()

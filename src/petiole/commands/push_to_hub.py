"""``petiole push-to-hub``: an adapter and a model card on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from rich.console import Group, RenderableType

from petiole.commands.options import CommandResult, fact
from petiole.commands.verb import verb


class Pushed(CommandResult):
    """An adapter that is on the hub now.

    Attributes:
        name: as every command and ``petiole.load_adapter`` take it.
        url: of the commit.
    """

    name: str
    url: str

    def text(self) -> RenderableType:
        return Group(
            fact("adapter", self.name),
            fact("commit", self.url),
            fact("next", f"petiole predict {quote(self.name)} IMAGE..."),
        )


@verb
def push_to_hub(adapter: Path, repo: str, /, *, private: bool = False) -> Pushed:
    """Put an adapter on the Hugging Face Hub, with a model card made from its record; the backbone's weights stay where they are.

    The token comes from HF_TOKEN or from `hf auth login`.

    Args:
        adapter: adapter folder, or the run folder around it, whose record the card then tells.
        repo: OWNER/NAME; made if it does not exist.
        private: let nobody else see it.

    Raises:
        AdapterError: the adapter is missing or damaged.
        ConfigError: no such name is possible, or the hub refuses.
        RunError: the run's record is damaged.
    """
    from petiole.engine.adapter import find
    from petiole.engine.hub import PREFIX, push

    folder = find(adapter)
    run = next(
        (place for place in (Path(adapter), folder.parent) if (place / "record.json").is_file()),
        None,
    )
    return Pushed(name=PREFIX + repo, url=push(folder, run, repo, private=private))

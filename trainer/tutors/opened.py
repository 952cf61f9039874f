"""From a tutor's options to the tutor."""

from pathlib import Path

import torch

from trainer.options import TutorOptions
from trainer.tutors.cache import AnswerCache
from trainer.tutors.checkpoint import OurTutor
from trainer.tutors.endpoint import Endpoint, EndpointOptions
from trainer.tutors.folder import FolderTutor
from trainer.tutors.port import Tutor
from trainer.tutors.secret import Secret


def opened(options: TutorOptions, answers: Path, device: torch.device | None = None) -> Tutor:
    """The tutor that is named: one of ours on `device`; an endpoint keeps its answers under `answers`.

    Raises:
        TutorError, CheckpointError: it cannot be opened.
    """
    if options.folder is not None:
        ours = (options.folder / "architecture.json").exists()
        if ours:
            return OurTutor.open(options.folder, device=device, prices=options.prices)
        return FolderTutor.open(options.folder, options.prices)
    named = EndpointOptions.model_validate({"url": options.url, "model": options.model})
    key = None
    if options.key_variable is not None:
        key = Secret.from_environment(options.key_variable)
    elif options.key_file is not None:
        key = Secret.from_file(options.key_file)
    return Endpoint(named, key=key, cache=AnswerCache(answers), prices=options.prices)

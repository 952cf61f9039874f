"""A run: the stages of the trainer, then the trained model on the phone, and the proof that it says what it should."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from device_agent.contracts import Blame, FulcrumError, Generation, Profile, Program, content_hash
from search.export import export_model
from search.export.pieces import toolchain
from search.numerics import quantisation_of
from server import teachers
from server.claims import ClaimedRun
from server.errors import Cancelled
from server.ledger import RunLedger, SqlBlockCache
from server.ports import PhoneBench
from server.runs import StageRecord
from server.series import Pace
from server.services import Services
from server.worker.check import check_tokens
from server.worker.corpus import prepared
from server.worker.stages import AnyStage, stage_of
from server.worker.telling import Telling
from trainer import pipeline
from trainer.checkpoint import Checkpoint
from trainer.errors import TrainerError

_LOOK_SECONDS = 0.5


class PromptTooLong(FulcrumError):
    """Prompt and continuation do not fit into the search's context length."""

    blame, slug = Blame.USER, "prompt-too-long"


def run_training(claimed: ClaimedRun, services: Services, owner: str, stop: threading.Event) -> None:
    """Run or continue: train, export, measure, talk, check."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    _Run(claimed, services, owner, stop).run()


class _Run:
    def __init__(self, claimed: ClaimedRun, services: Services, owner: str, stop: threading.Event) -> None:
        self._claimed, self._services, self._stop = claimed, services, stop
        self._search = claimed.search.spec
        self._ledger = RunLedger(services.database, claimed.id, owner)
        self._bench = PhoneBench(
            services.queue,
            self._ledger.cancelled,
            search=claimed.search.id,
            run=claimed.id,
            waiting=self._ledger.waiting,
        )
        self._cache = SqlBlockCache(services.database)
        self._phone = claimed.spec.phone or self._search.phones[0]

    def run(self) -> None:
        corpus = prepared(self._services, self._search, self._ledger.progress)
        tokens = corpus.tokenizer.encode(self._claimed.spec.prompt, add_special_tokens=False).ids
        prompt = tuple(int(token) for token in tokens)
        self._refuse_overflow(len(prompt))
        checkpoint = self._train(corpus.directory)
        program = self._export(checkpoint)
        self._ledger.program(program)
        after = len(self._claimed.spec.stages)
        self._ledger.reached(after, 1)
        number = self._claimed.number
        self._ledger.progress(f"measuring on {self._phone}", 0, 1)
        measurement = self._bench.measure(program, self._search.protocol, self._phone, number)
        self._ledger.profile(self._phone, Profile.of(measurement))
        self._ledger.reached(after, 2)
        self._ledger.progress(f"talking on {self._phone}", 0, 1)
        generation = self._bench.generate(program, prompt, self._claimed.spec.new_tokens, self._phone, number)
        self._conclude(checkpoint, generation)

    def _refuse_overflow(self, prompt: int) -> None:
        needed, context = prompt + self._claimed.spec.new_tokens, self._search.context_length
        if needed > context:
            raise PromptTooLong(
                f"a prompt of {prompt} tokens and its continuation need {needed} positions; the context has {context}",
                advice="Shorten the prompt or ask for fewer new tokens.",
            )

    def _train(self, corpus_directory: Path) -> Checkpoint:
        stages = self._stages()
        directory = self._services.settings.home / "runs" / self._claimed.id
        records = [StageRecord(name=stage.kind, makes=stage.makes) for stage in stages]
        telling = Telling(records, self._ledger, directory / "tensorboard")
        try:
            checkpoint, _ = pipeline.run(
                stages,
                self._claimed.architecture,
                corpus_directory,
                directory,
                report=telling.report,
                finished=telling.finished,
                should_stop=self._should_stop(),
            )
        except TrainerError:
            telling.flush()  # the last figures before a training diverged say most
            raise
        return checkpoint

    def _stages(self) -> list[AnyStage]:
        stages: list[AnyStage] = []
        for request in self._claimed.spec.stages:
            named, home = request.teacher, self._services.settings.home
            taught = None if named is None else teachers.folder(self._services.database, home, named)
            path = self._services.artifacts.path
            files = {option: [path(sha256) for sha256 in named] for option, named in request.artifacts.items()}
            stages.append(stage_of(request, self._search.quantisation, taught, stages, files))
        return stages

    def _should_stop(self) -> Callable[[], bool]:
        look = Pace(_LOOK_SECONDS)

        def should_stop() -> bool:
            if self._stop.is_set():
                return True
            if look.due() and self._ledger.cancelled():
                raise Cancelled("the user asked to stop")
            return False

        return should_stop

    def _export(self, checkpoint: Checkpoint) -> Program:
        search = self._search
        packing = checkpoint.packing()
        numerics = search.quantisation if packing is None else quantisation_of(packing.scheme)
        what = {
            "checkpoint": checkpoint.directory.name,
            "quantisation": numerics.model_dump(mode="json"),
            "context": search.context_length,
            "chunk": search.prefill_chunk,
            "kv_cache": search.protocol.kv_cache,
        }
        key = content_hash({"monolithic": what, "by": toolchain()})
        if kept := self._cache.get(key):
            return Program.model_validate_json(kept)
        self._ledger.progress("exporting the trained model", 0, 1)
        program = export_model(
            checkpoint.model(),
            context_length=search.context_length,
            prefill_chunk=search.prefill_chunk,
            quantisation=packing or numerics,
            store=self._services.artifacts,
            cache=self._cache,
            kv_cache=search.protocol.kv_cache,
        )
        self._cache.put(key, program.model_dump_json())
        return program

    def _conclude(self, checkpoint: Checkpoint, generation: Generation) -> None:
        numerics = checkpoint.packing() or self._search.quantisation
        check = check_tokens(checkpoint.model(), numerics, generation, self._search.protocol.kv_cache)
        taken = [step.token for step in generation.steps]
        self._ledger.generation(generation, checkpoint.tokenizer.decode(taken), check)
        self._ledger.progress("done", 1, 1)

"""One run of ``levit predict``: inputs, model, engine and writer brought together.

The order matters: what can be refused for free is refused first (usage, output), then the first input is looked for,
and only then is a model loaded. What is resumed is not touched before it is known to be this run's.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from levit_cli.checkpoints import Checkpoint
from levit_cli.choices import Format
from levit_cli.data.inputs import STDIN, SUFFIXES, Input, listed
from levit_cli.engines import Engine
from levit_cli.errors import ExitCode, OutputError, RefusedError, Terminated, UsageError
from levit_cli.predict.decoding import Preparation
from levit_cli.predict.pipeline import Prediction, Stats, predict
from levit_cli.predict.prefetch import Prefetcher
from levit_cli.predict.reader import Reader
from levit_cli.predict.records import RESUMABLE, record_format
from levit_cli.predict.request import (
    Request,
    closing_line,
    engine_for,
    load_model,
    sized,
    time_table,
)
from levit_cli.predict.run_description import RunDescription, describe_run
from levit_cli.predict.writers import Writer, format_for, make_writer
from levit_cli.system.output import Document, OutputFile, Sink, Target, is_terminal, open_output, require_free
from levit_cli.system.progress import Log, progress, shows_progress

if TYPE_CHECKING:
    from levit_cli.predict.resume.fingerprint import Note


class Outcome(NamedTuple):
    """How a run ended. It holds on to the engine, as taking that down takes longer than leaving the process does."""

    exit_code: ExitCode
    engine: Engine


def classify(request: Request, log: Log) -> Outcome:
    """Classify everything and write it.

    Args:
        say: told what people should know; stderr.

    Returns:
        The exit code that says whether all inputs, or not all, could be classified.

    Raises:
        LevitError: nothing, or not everything, could be tried.
    """
    format = format_for(request.format, request.output, is_terminal=is_terminal())
    _require_sense(request, format)
    named_files = [*request.inputs, request.files_from or ""]
    require_free(
        request.output, named_files, overwrite=request.overwrite, resume=request.resume, replaces=format == "json"
    )
    with open_output(request.output, overwrite=request.overwrite, resume=request.resume) as output:
        inputs, alone = _require_some(_listed(request), request)
        request = sized(request, alone=alone)
        checkpoint = load_model(request, log)
        reader = Reader(checkpoint.transform, request.decoding, offline=request.offline)
        with Preparation(reader, limit_s=request.timeout_s, isolate=request.isolate or request.resume) as preparation:
            run = _Run(request, format, checkpoint, preparation, log)
            if request.resume and isinstance(output, OutputFile):
                return run.resume(inputs, output)
            return run.begin(inputs, output)


def _require_sense(request: Request, format: Format) -> None:
    if not request.inputs and request.files_from is None:
        raise UsageError("Nothing to classify", hint="name files, folders or addresses, or use --files-from")
    if request.files_from == STDIN and STDIN in request.inputs:
        raise UsageError("Standard input cannot be an image and a list at once")
    if request.resume and request.overwrite:
        raise UsageError("--resume keeps what stands and --overwrite does not", hint="leave one of them out")
    if request.resume and (request.output is None or format not in RESUMABLE):
        why = "there is no --output" if request.output is None else f"{format} makes sense only as a whole"
        raise UsageError("Nothing can be resumed", why=why, hint=f"--resume continues {', '.join(RESUMABLE)}")


def _listed(request: Request) -> Iterator[Input]:
    return listed(request.inputs, request.files_from, null=request.null)


def _can_be_listed_again(request: Request) -> bool:
    return request.files_from is None or Path(request.files_from).is_file()


def _require_some(inputs: Iterator[Input], request: Request) -> tuple[Iterator[Input], bool]:
    """The same stream, once it is known not to be empty, and whether it holds one input only.

    A list is not asked for its second line, which may come only when the first is answered.
    """
    ahead = list(itertools.islice(inputs, 2 if request.files_from is None else 1))
    if not ahead:
        where = ", ".join(request.inputs) or f"the list {request.files_from}"
        raise UsageError(f"No images in {where}", why=f"looked for {' '.join(SUFFIXES)}")
    return itertools.chain(ahead, inputs), request.files_from is None and len(ahead) == 1


@dataclass
class _Run:
    """The parts of a run, and the two ways to go about it."""

    request: Request
    format: Format
    checkpoint: Checkpoint
    preparation: Preparation
    log: Log
    stats: Stats = field(default_factory=Stats)

    def begin(self, inputs: Iterable[Input], output: Sink | OutputFile) -> Outcome:
        """Write everything."""
        ahead = self._ahead(inputs)  # decoding begins while the engine is made
        return self._begin(ahead, output, engine_for(self.request, self.checkpoint, self.log))

    def resume(self, inputs: Iterable[Input], output: OutputFile) -> Outcome:
        """Write what is missing in an output, and again what failed there."""
        # most runs need none of these
        from levit_cli.predict.resume.merge import Continuation
        from levit_cli.predict.resume.plan import Plan
        from levit_cli.predict.resume.verify import require_shared, standing_in

        engine = engine_for(self.request, self.checkpoint, self.log)
        records = record_format(self.format, self.checkpoint.labels, self.request.top_k)
        assert records is not None
        standing = standing_in(output, records, self._note(engine), partial(self._sample, engine))
        if standing is None:
            return self._begin(self._ahead(inputs), output, engine)
        if _can_be_listed_again(self.request):
            require_shared(output, standing, _listed(self.request))
        self._attach_note(engine, output.descriptor, standing.end)
        plan = Plan(standing, inputs)
        target = Continuation(output, plan, partial(self._attach_note, engine))
        self._write(self._ahead(plan), engine, target, continues=True)
        outcome = self._outcome(engine, f"; {plan.num_kept:,} stood already")
        if target.num_left_out:
            self.log(f"Left out {target.num_left_out:,} records of inputs that are not listed any more.")
        if target.num_kept_apart:
            self.log(f"Kept {target.num_kept_apart:,} records of inputs that were not listed, at the end.")
        return outcome

    def _begin(self, ahead: Prefetcher, output: Sink | OutputFile, engine: Engine) -> Outcome:
        if not isinstance(output, OutputFile):
            self._write(ahead, engine, output)
        elif self.format == "json":
            self._write(ahead, engine, Document(output))
        elif self.format in RESUMABLE:
            self._write(ahead, engine, output, on_first=lambda: self._attach_note(engine, output.descriptor))
        else:
            self._write(ahead, engine, output)
        return self._outcome(engine)

    def _ahead(self, inputs: Iterable[Input]) -> Prefetcher:
        return self.preparation.ahead(inputs, batch_size=self.request.batch_size, workers=self.request.workers)

    def _answers(self, ahead: Prefetcher, engine: Engine, stats: Stats) -> Generator[Prediction, None, None]:
        return predict(
            ahead,
            engine,
            top_k=self.request.top_k,
            streams=engine.spec.streams,
            stats=stats,
            temperature=self.checkpoint.temperature,
        )

    def _sample(self, engine: Engine, inputs: Iterable[Input]) -> Iterator[Prediction]:
        return self._answers(self._ahead(inputs), engine, Stats())

    def _note(self, engine: Engine) -> "Note":
        from levit_cli.predict.resume.fingerprint import note_of

        return note_of(self._description(engine, with_hash=True), self.checkpoint.labels, self.format)

    def _description(self, engine: Engine, *, with_hash: bool) -> RunDescription:
        return describe_run(
            self.checkpoint, engine.spec, self.request.decoding, self.request.top_k, with_hash=with_hash
        )

    def _attach_note(self, engine: Engine, descriptor: int, end: int | None = None) -> None:
        from levit_cli.predict.resume.fingerprint import attach

        with suppress(RefusedError):  # weights that cannot be read any more are no reason to stop
            attach(descriptor, self._note(engine), end)

    def _write(
        self,
        ahead: Prefetcher,
        engine: Engine,
        target: Target,
        *,
        on_first: Callable[[], None] | None = None,
        continues: bool = False,
    ) -> None:
        description = self._description(engine, with_hash=self.format == "json")
        self.stats = Stats()
        with closing(self._answers(ahead, engine, self.stats)) as answers:
            writer = make_writer(
                self.format, target, self.checkpoint.labels, self.request.top_k, description,
                color=self.request.color, continues=continues,
            )  # fmt: skip
            with self._ending(writer, target), progress(shown=_shows_progress(self.request)) as bar:
                for answer in answers:
                    writer.write(answer)
                    if on_first is not None:
                        on_first()
                        on_first = None
                    bar.advance()

    @contextmanager
    def _ending(self, writer: Writer, target: Target) -> Iterator[None]:
        """However it ends, what was finished is in the output."""
        try:
            yield
        except (OutputError, BrokenPipeError):
            target.discard()
            raise
        except BaseException as error:
            if isinstance(target, Document):
                writer.finish()
            target.stop()
            if isinstance(error, (KeyboardInterrupt, Terminated)) and self._is_resumable and not self.request.quiet:
                self.log("The same command with --resume goes on from here.")
            raise
        writer.finish()
        target.finish()

    @property
    def _is_resumable(self) -> bool:
        return self.request.output is not None and self.format in RESUMABLE

    def _outcome(self, engine: Engine, remark: str = "") -> Outcome:
        if not self.request.quiet:
            self.log(closing_line(self.stats) + remark)
        if self.request.stats:
            self.log(time_table(self.stats))
        engine.save_cache()
        return Outcome(ExitCode.SOME_FAILED if self.stats.failed else ExitCode.OK, engine)


def _shows_progress(request: Request) -> bool:
    """On a terminal, unless the results themselves are shown there."""
    return shows_progress(quiet=request.quiet) and not (request.output is None and is_terminal())

"""``levit serve``: listen, load the model, answer until a signal, then finish what was accepted."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from levit_cli.engines import EngineSpec
from levit_cli.errors import ExitCode, LevitError, raise_faults
from levit_cli.predict.model import ModelOptions, conflicts, threshold_faults
from levit_cli.predict.prefetch import DecodeOptions
from levit_cli.serve.app import Application
from levit_cli.serve.connection import Connection, Connections
from levit_cli.serve.images import ImageRoutes
from levit_cli.serve.inference_protocol import InferenceRoutes
from levit_cli.serve.listen import Listener, listen
from levit_cli.serve.metrics import Metrics
from levit_cli.serve.model import ServedModel, load_served_model, public_name
from levit_cli.serve.pages import PageRoutes
from levit_cli.serve.process import max_connections, process_gauges
from levit_cli.serve.routes import all_routes
from levit_cli.serve.scheduler import Scheduler
from levit_cli.serve.service import Service, in_thread
from levit_cli.serve.settings import Access, Address, Limits
from levit_cli.system.cpu import usable_threads
from levit_cli.system.progress import Log, silent
from levit_cli.system.signals import SIGNALS
from levit_cli.system.text import count_noun

MAX_BODY_MEMORY = 512 << 20
BACKLOG_S = 0.05  # time to accept the connections that the system has already established


@dataclass(frozen=True)
class ServeOptions:
    """The options of the server besides those of the model and its engine."""

    address: Address
    access: Access
    limits: Limits
    batch_size: int
    min_prob: float | None = None
    quiet: bool = False
    verbose: bool = False


def serve(
    model: ModelOptions, spec: EngineSpec, decode: DecodeOptions, options: ServeOptions, log: Log
) -> ExitCode:  # fmt: skip
    """Serve a model until SIGTERM or SIGINT.

    Returns:
        ``OK``, or ``SOME_FAILED`` if accepted requests were not answered within the grace time.

    Raises:
        LevitError: the options, the address, the model or the engine were refused.
    """
    raise_faults([*conflicts(model, spec, decode.resizer), *threshold_faults(options.min_prob)])
    listener = listen(options.address)
    if not listener.is_private and options.access.token is None:
        log("Warning: All who can reach this machine can use the server · set LEVIT_SERVE_TOKEN to require a token")
    load = partial(
        load_served_model, model, spec, decode, log,
        max_batch=options.batch_size, min_prob=options.min_prob, verbose=options.verbose,
    )  # fmt: skip
    try:
        return asyncio.run(_Server(listener, load, model.name, decode, options, log).run())
    finally:
        listener.remove()


class _Server:
    def __init__(
        self,
        listener: Listener,
        load: Callable[[], ServedModel],
        model_name: str,
        decode: DecodeOptions,
        options: ServeOptions,
        log: Log,
    ) -> None:
        self._listener, self._load, self._options, self._log = listener, load, options, log
        self._workers, self._timeout_s = decode.workers or usable_threads(), decode.timeout_s
        self._say = silent if options.quiet else log
        self._metrics = Metrics()
        self._service = Service(self._metrics, self._make_scheduler, options.limits.request_timeout_s)
        self._app = self._application(public_name(model_name).rpartition("/")[2])
        self._is_reloading = self._is_reload_wanted = False

    async def run(self) -> ExitCode:
        loop = asyncio.get_running_loop()
        self._connections = Connections(
            self._app, self._options.limits, MAX_BODY_MEMORY, max_connections()
        )  # fmt: skip
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._handle_signals(loop)
        servers = [await self._listen(loop, bound) for bound in self._listener.sockets]
        self._say(f"Listening on {self._listener.url}")
        loading = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()  # raises what loading raised
            await stopping
        else:
            loading.cancel()
        return await self._drain(servers)

    async def _listen(self, loop: asyncio.AbstractEventLoop, bound: socket.socket) -> asyncio.AbstractServer:
        connection = partial(Connection, self._connections)
        if sys.platform != "win32" and bound.family == socket.AF_UNIX:
            return await loop.create_unix_server(connection, sock=bound)
        return await loop.create_server(connection, sock=bound)

    async def _start(self) -> None:
        model = await in_thread(self._warm_model)
        self._service.use(model)
        spec = model.spec
        self._say(
            f"Ready: {model.checkpoint.origin}, {count_noun(len(model.checkpoint.labels), 'class', 'classes')}, "
            f"{spec.engine} on {spec.device} in {spec.precision}"
        )
        await in_thread(partial(_prepare_for_load, model, self._workers))
        if self._is_reload_wanted:  # SIGHUP came while the model was being loaded
            self._on_reload()

    def _warm_model(self) -> ServedModel:
        model = self._load()
        previous = self._service.model
        model.warm_up(previous.sizes if previous else ())
        return model

    def _make_scheduler(self, model: ServedModel) -> Scheduler:
        shares_cores = model.spec.engine == "openvino"
        return Scheduler(
            self._metrics,
            queue=self._options.limits.queue,
            workers=self._workers,
            streams=model.spec.threads if shares_cores else model.spec.streams,
            cores=usable_threads() if shares_cores else None,
            max_batch=self._options.batch_size,
            timeout_s=self._timeout_s,
        )

    async def _drain(self, servers: list[asyncio.AbstractServer]) -> ExitCode:
        self._connections.is_draining = True
        self._say("Stopping: accepted requests are being answered.")
        await asyncio.sleep(BACKLOG_S)
        for server in servers:
            server.close()
        try:
            await asyncio.wait_for(self._connections.drain(), self._options.limits.grace_s)
        except asyncio.TimeoutError:
            unanswered = self._connections.num_unanswered
            if unanswered:
                self._log(
                    f"Stopped after --grace {self._options.limits.grace_s:g} s with "
                    f"{count_noun(unanswered, 'unanswered request')}."
                )
                return ExitCode.SOME_FAILED
        return ExitCode.OK

    # Signals

    def _handle_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:  # as SIGINT under nohup
                _on_signal(loop, number, self._on_stop)
        if sys.platform != "win32":
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)

    def _on_stop(self) -> None:
        for number in SIGNALS:  # a second signal ends the process at once
            if sys.platform == "win32":
                signal.signal(number, signal.SIG_DFL)
            else:
                asyncio.get_running_loop().remove_signal_handler(number)
                signal.signal(number, signal.SIG_DFL)
        self._stop.set()

    def _on_reload(self) -> None:
        self._is_reload_wanted = True
        if not self._is_reloading and self._service.model is not None:
            self._is_reloading = True
            task = asyncio.get_running_loop().create_task(self._reload())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reload(self) -> None:
        """Load the model again and use it for new requests; keep the old one if that fails."""
        while self._is_reload_wanted:
            self._is_reload_wanted = False
            try:
                model = await in_thread(self._warm_model)
            except Exception as error:
                self._metrics.reloads.add(outcome="failed")
                what = str(error) if isinstance(error, LevitError) else f"{type(error).__name__}: {error}"
                self._log(f"Error: The model was not reloaded; the previous one is kept · {what}")
            else:
                self._metrics.reloads.add(outcome="ok")
                self._service.use(model)
                self._say(f"Reloaded {model.checkpoint.origin}")
        self._is_reloading = False

    # The application

    def _application(self, name: str) -> Application:
        options = self._options
        images = ImageRoutes(self._service)
        inference = InferenceRoutes(self._service, name)
        pages = PageRoutes(
            self._service, self._metrics, options.limits, options.address.root_path, self._gauges,
            lambda: self._connections.is_draining,
        )  # fmt: skip
        return Application(
            all_routes(images, inference, pages),
            self._service,
            self._metrics,
            access=options.access,
            limits=options.limits,
            root_path=options.address.root_path,
            access_log=self._log if options.verbose else None,
            log=self._log,
        )

    def _gauges(self) -> dict[str, tuple[str, float]]:
        scheduler = self._service.scheduler
        return {
            "levit_ready": ("1 when the model is warm.", float(self._service.model is not None)),
            "levit_queue_waiting": ("Requests that wait for a decoder.", scheduler.num_waiting if scheduler else 0),
            "levit_queue_limit": ("Requests that may wait.", self._options.limits.queue),
            "levit_connections": ("Open connections.", len(self._connections.open)),
            **process_gauges(),
        }


def _prepare_for_load(model: ServedModel, workers: int) -> None:
    with suppress(LevitError):  # the weights can no longer be read
        model.prepare_for_load(workers)


def _on_signal(loop: asyncio.AbstractEventLoop, number: int, call: Callable[[], None]) -> None:
    if sys.platform == "win32":
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(call))
    else:
        loop.add_signal_handler(number, call)

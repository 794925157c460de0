"""The Rust data plane as Python sees it (crate ``hopseal-dataplane``, ``broker/dataplane``)."""

from typing import final

__version__: str

class DataPlaneError(Exception):
    """A refusal: ``args`` are a stable code and a message for the operator."""

    args: tuple[str, str]

@final
class DataPlane:
    """One data plane; starts once. Any method may be called from any thread.

    ``start``, ``drain``, ``stop`` and ``set_policies`` may take long and release the interpreter
    lock; the others never block. Identities, bundles, components, routes and policies may be set
    before ``start``.
    """

    def __new__(cls, settings_json: str) -> DataPlane:
        """A data plane that serves nothing yet.

        Args:
            settings_json: trust_domain, node, out_socket, peer_listen ("ip:port"), log_dir and
                optionally out_socket_mode ("0777"), body_limit_bytes, streams ("reject"), worker_threads,
                default_component, boundaries, limits, timeouts_ms; unknown keys are refused.

        Raises:
            DataPlaneError: ``settings_invalid``; ``start_failed`` without descriptors.
        """

    def start(self) -> int:
        """The peer port, once both sockets are bound, the log is open and its replays are known.

        Raises:
            DataPlaneError: ``socket_in_use``, ``socket_path_occupied``, ``socket_folder_unsafe``,
                ``socket_failed``, ``peer_port_in_use``, ``peer_listen_failed``, ``log_locked``,
                ``log_unavailable``, ``kernel_unsupported``, ``started_twice``, ``start_failed``.
        """

    def event_fd(self) -> int:
        """An eventfd, readable once :meth:`take_events` has urgent news or many lines about calls; stays ours."""

    def take_events(self) -> list[str]:
        """JSON objects with member ``event``, oldest first; empties the queue."""

    def take_calls(self, end: str, most: int) -> tuple[str, list[str]]:
        """Up to ``most`` calls that ended: lines with ``end`` for their last brace, and texts not printable."""

    def admit_caller(self, pidfd_inode: int, instance: str, component: str) -> None:
        """Calls of this process are calls of ``component`` ("agent/component")."""

    def refuse_caller(self, pidfd_inode: int, code: str, retry: bool) -> None:
        """Answer this process 403 until forgotten, or with ``retry`` those that wait 503 and then ask again."""

    def forget_caller(self, pidfd_inode: int) -> None:
        """The next request of this process asks again."""

    def admit_listener(self, component: str, pidfd_inode: int, instance: str) -> None:
        """This process receives calls for ``component``; inode 0 is a listener that has exited."""

    def refuse_listener(self, component: str, pidfd_inode: int, code: str) -> None:
        """Send nothing to this process until forgotten; ``attestor_unavailable`` is not remembered."""

    def forget_listener(self, component: str, pidfd_inode: int) -> None:
        """The next connection to this process asks again."""

    def set_identity(
        self, instance: str, component: str, spiffe_id: str, chain_der: list[bytes], key_pkcs8: bytes, expires_at: int
    ) -> None:
        """Give an instance its first or a rotated SVID: DER leaf first, PKCS#8 key, end in NumericDate seconds.

        Raises:
            DataPlaneError: ``identity_invalid``; the SVID in use stays.
        """

    def withdraw(self, instance: str, component: str, code: str) -> None:
        """Drop the key, close every connection in both directions at once, void admissions and handles."""

    def set_bundles(self, bundles: list[tuple[str, list[bytes], int]]) -> None:
        """Replace the bundles: trust domain, DER authorities, sequence. Connections that no longer hold close.

        Raises:
            DataPlaneError: ``bundle_invalid``; the bundles in force stay.
        """

    def set_components(self, components_json: str) -> None:
        """Replace the documents' components, and those of other trust domains (``partner``) that can be called.

        Raises:
            DataPlaneError: ``components_invalid``; those in force stay.
        """

    def set_routes(self, routes_json: str) -> None:
        """Replace the routes, ``{"agent/component": ["host:port", …]}``.

        Raises:
            DataPlaneError: ``routes_invalid``; those in force stay.
        """

    def set_issuers(self, issuers_json: str) -> None:
        """Replace the issuers of user tokens; what the keys before verified is forgotten.

        Args:
            issuers_json: list of objects with ``issuer`` (the tokens' ``iss``), ``type`` (``txn`` or ``at``),
                ``audience`` (list), ``jwks`` (a key set, or null while no keys are known) and optionally
                ``clients`` (client ID to SPIFFE ID).

        Raises:
            DataPlaneError: ``issuers_invalid``; those in force stay.
        """

    def set_policies(self, cedar_text: str, entities_json: str) -> None:
        """Replace the policies by one enforced set that is not validated. Until the first set every call is denied.

        Raises:
            DataPlaneError: ``policy_invalid``; those in force stay.
        """

    def descriptors(self) -> list[int]:
        """``out.sock``, its lock file and the peer port; they stay the data plane's.

        Raises:
            DataPlaneError: ``not_running``; ``handed_over``.
        """

    def hand_over(self) -> tuple[int, int]:
        """Stop accepting and writing the log; calls in progress go on (docs/adr/0017).

        Returns:
            A stream socket for the questions of this data plane and a datagram socket for connections that it passes
            on, both the caller's, for :meth:`take_over` in another process.

        Raises:
            DataPlaneError: ``handover_failed``; nothing has changed unless it was done before.
        """

    def take_over(self, out: int, out_lock: int, peer: int, relay: int, forward: int) -> int:
        """Start with what another process handed over, instead of :meth:`start`; returns the peer port.

        All descriptors are the data plane's from then on.

        Raises:
            DataPlaneError: as of :meth:`start`; ``handover_failed``.
        """

    def set_policy_sets(self, sets_json: str, facts_json: str) -> None:
        """Replace every policy set and the facts beside them, validated against the schema; judge open calls again.

        Args:
            sets_json: list of objects with ``name``, ``layer`` (documents, operator or admin), ``observe`` (bool) and
                ``pieces`` (list of Cedar texts); a piece of unchanged text is not parsed again.
            facts_json: object with ``entities`` (Cedar's JSON form), ``risks`` (SPIFFE ID to tool to risk),
                ``locations`` and ``threats`` (lists of ``pattern`` and ``label``) and ``evidence`` (SPIFFE ID to
                ``measured_at`` and ``posture``).

        Raises:
            DataPlaneError: ``policy_invalid`` with one mistake a line; those in force stay.
        """

    def set_policy_facts(self, facts_json: str) -> None:
        """Replace the facts beside the sets in force; judge open calls again.

        Raises:
            DataPlaneError: ``policy_invalid``; those in force stay.
        """

    def explain(self, question_json: str) -> str:
        """What the policies in force make of a question, as JSON.

        Raises:
            DataPlaneError: ``question_invalid``.
        """

    def decision(self, decision_id: str) -> str | None:
        """What is remembered of a decision, and what the policies in force now make of its question, as JSON."""

    def log_durable(self) -> int:
        """How many log entries are durable: all whose number is smaller; 0 before ``start``."""

    def take_leaves(self, start: int, end: int) -> list[bytes] | None:
        """Leaves of durable entries ``start`` to ``end``, each given once; None if only the journal has them all."""

    def set_witnessed(self, count: int) -> None:
        """The first ``count`` log entries are witnessed; in strict mode calls wait for this."""

    def append_artifact(self, artifact_json: str, chain_der: list[bytes] = ...) -> None:
        """Log a JSON object of type ``attest``, ``token`` or ``revoke``, without ``n`` and ``at_ms``; nobody waits.

        Certificates in ``chain_der`` that the log's file has not yet are logged before it.

        Raises:
            DataPlaneError: ``artifact_invalid``; ``log_unavailable`` before ``start`` or if too much waits.
        """

    def stats(self) -> str:
        """JSON: ``metrics`` (name, type, help, samples), ``log`` (healthy, detail), further gauges."""

    def drain(self, timeout_s: float) -> None:
        """Accept nothing new and wait for calls in progress."""

    def stop(self) -> None:
        """Close everything at once and flush the log."""

@final
class PolicySets:
    """Policy sets and facts that decide nothing: for checks, tests and explanations."""

    def __new__(cls, sets_json: str, facts_json: str) -> PolicySets:
        """The sets, parsed and validated; arguments as of :meth:`DataPlane.set_policy_sets`.

        Raises:
            DataPlaneError: ``policy_invalid`` with one mistake a line.
        """

    def __len__(self) -> int:
        """How many policies there are."""

    def explain(self, question_json: str) -> str:
        """What they make of a question, as JSON.

        Raises:
            DataPlaneError: ``question_invalid``.
        """

def policy_schema() -> str:
    """The published Cedar schema."""

def custody_verify(request_json: str) -> str:
    """The Rust codec's verdict on one message, as JSON, for tests that compare both codecs."""

def custody_sign(request_json: str) -> str:
    """Statements sealed by the Rust codec, as JSON, for tests that compare both codecs."""

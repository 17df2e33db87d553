"""The tables of the evolution protocol. Generated from spec/protocol.toml by spec/generate.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal


@dataclass(frozen=True)
class Parameter:
    """A member of a request's `params`. The types are described at the head of spec/protocol.toml."""

    name: str
    type: str
    required: bool
    meaning: str


@dataclass(frozen=True)
class Method:
    """A request that the machine answers, and its properties.

    `runs`: "inline" at once, "queued" on a second thread while later requests wait, "sized" either of these by its
    size, "beside" on a second thread while the methods with `passes` are answered, "apart" while only its own
    connection waits. `cancellable`: `cancel` ends it.
    `emergency`: answered in emergency mode too. `changes_weights`: it makes a new generation. `repeat`: whether a
    client may send it again when no reply came: always ("safe"), with the same id ("by_id"), or not by itself
    ("never"). `blob`: whether a blob comes with it. `in_process`: whether the C library answers it. `signed`: a
    machine with a mutation key takes it only inside `signed`.
    """

    name: str
    summary: str
    runs: Literal["inline", "queued", "sized", "beside", "apart"]
    passes: bool
    cancellable: bool
    emergency: bool
    changes_weights: bool
    repeat: Literal["safe", "by_id", "never"]
    blob: Literal["none", "optional", "required"]
    in_process: bool
    signed: bool
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True)
class MachineTensor:
    """A tensor that every machine has beside those of the model. No mutation changes a protected one."""

    name: str
    type: str
    elements: int
    protected: bool
    meaning: str


class Code(IntEnum):
    """The error codes of the protocol."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    UNKNOWN_METHOD = -32601
    INVALID_PARAMS = -32602
    CANCELLED = -32800
    UNKNOWN_TENSOR = 1001
    PROTECTED_TENSOR = 1002
    OUT_OF_BOUNDS = 1003
    MISMATCH = 1004
    NOT_FINITE = 1005
    LOW_CONFIDENCE = 1006
    STALE_GENERATION = 1007
    NO_CHANGE = 1008
    NO_ENERGY = 1009
    BAD_SIGNATURE = 1010
    DAMAGED_BLOB = 1011
    UNUSABLE_BLOB = 1012
    TOO_MANY_EDITS = 1013
    UNKNOWN_GENERATION = 1014
    JOURNAL_FAILED = 1015
    EMERGENCY = 1016
    BUSY = 1017
    UNSUPPORTED = 1018
    UNSUPPORTED_EDIT = 1019
    ID_REUSED = 1020
    RELOAD_FAILED = 1021
    UPDATE_FAILED = 1023


LINE_LIMIT = 65536
"""Longest line, its newline included (bytes)."""
BLOB_LIMIT = 1048576
"""Largest blob (bytes)."""
UPLOAD_LIMIT = 1073741824
"""Largest upload (bytes)."""
OPEN_UPLOADS_LIMIT = 4
"""Uploads open at a time, of one connection (uploads)."""
UPLOAD_IDLE_MS = 60000
"""How long an upload outlives its connection (ms)."""
EDITS_LIMIT = 256
"""Edits in one mutation (edits)."""
RANK_LIMIT = 64
"""Largest rank of a low_rank edit (columns)."""
PROGRAM_PIXELS_LIMIT = 1364
"""Pixels of a program edit (pixels)."""
ID_LIMIT = 256
"""Longest id of a request, as UTF-8 (bytes)."""
CONNECTIONS_LIMIT = 16
"""Connections that a machine serves at a time (connections)."""
OUTSTANDING_LIMIT = 64
"""Requests of one connection that may wait for a reply; then the machine stops reading it (requests)."""
REMEMBERED_IDS = 65536
"""Ids of changes that are kept, so that a repeated change gets the same reply (ids)."""
TEXTS_LIMIT = 64
"""Texts in one `embed` (texts)."""
NAMES_LIMIT = 256
"""Tensors in one `digest`, and digests in one reply (names)."""
BLOB_STALL_MS = 2000
"""A blob that gets no byte for so long is dropped (ms)."""
DISCARD_SILENCE_MS = 250
"""After a blob that is too large, input is discarded until the sender was silent for so long (ms)."""
BYE_WAIT_MS = 1000
"""How long a machine that stops waits for the notification `bye` (ms)."""
RELOAD_READY_MS = 10000
"""How long a new worker may take until it is ready to take over (ms)."""
RELOAD_PROBATION_MS = 10000
"""Probation of a new worker, unless the machine was started with another one (ms)."""
HISTORY_DEFAULT = 100
"""Records in a reply to `history` unless the request says otherwise (records)."""
METHODS: Mapping[str, Method] = {
    "hello": Method(
        name="hello",
        summary="version, generation, limits and state of the machine; the first request on a connection",
        runs="inline",
        passes=True,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="protocol",
                type="integer",
                required=True,
                meaning="version of the protocol: 1",
            ),
            Parameter(
                name="client",
                type="string",
                required=True,
                meaning="name of the client program",
            ),
        ),
    ),
    "stats": Method(
        name="stats",
        summary="counters and measurements of the machine",
        runs="inline",
        passes=True,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(),
    ),
    "tensors": Method(
        name="tensors",
        summary="lists the tensors, as many as fit a line",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="prefix",
                type="string",
                required=False,
                meaning="only tensors whose name starts with this",
            ),
            Parameter(
                name="cursor",
                type="string",
                required=False,
                meaning="the member `next` of an earlier reply: where to continue",
            ),
        ),
    ),
    "read": Method(
        name="read",
        summary="reads bytes of one tensor in its storage type",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="tensor",
                type="string",
                required=True,
                meaning="name of the tensor",
            ),
            Parameter(
                name="offset",
                type="integer",
                required=False,
                meaning="first byte, 0 unless given",
            ),
            Parameter(
                name="bytes",
                type="integer",
                required=True,
                meaning="number of bytes, 1 to the limit of a blob",
            ),
            Parameter(
                name="generation",
                type="integer",
                required=False,
                meaning="an older generation that is kept; the current one unless given",
            ),
        ),
    ),
    "digest": Method(
        name="digest",
        summary="SHA-256 of the model and of single tensors",
        runs="queued",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="tensors",
                type="strings",
                required=False,
                meaning="names of tensors; the first 256 by name unless given",
            ),
            Parameter(
                name="generation",
                type="integer",
                required=False,
                meaning="an older generation that is kept; the current one unless given",
            ),
        ),
    ),
    "mutate": Method(
        name="mutate",
        summary="changes weights: all edits, or none",
        runs="sized",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=True,
        repeat="by_id",
        blob="optional",
        in_process=True,
        signed=True,
        parameters=(
            Parameter(
                name="id",
                type="hex16",
                required=True,
                meaning="id of the change, chosen by the client",
            ),
            Parameter(
                name="base_generation",
                type="integer",
                required=True,
                meaning="the generation that the change was made for: the current one",
            ),
            Parameter(
                name="confidence",
                type="any",
                required=True,
                meaning="a number above 0.8 and at most 1; anything else is answered with code 1006",
            ),
            Parameter(
                name="origin",
                type="string",
                required=False,
                meaning="who makes the change, for the journal",
            ),
            Parameter(
                name="edits",
                type="edits",
                required=True,
                meaning="the edits, applied in this order",
            ),
            Parameter(
                name="lease_ms",
                type="integer",
                required=False,
                meaning="makes the change a trial that ends after so many milliseconds, at least 1",
            ),
            Parameter(
                name="digest",
                type="boolean",
                required=False,
                meaning="whether the reply holds the SHA-256 of the changed tensors",
            ),
        ),
    ),
    "rollback": Method(
        name="rollback",
        summary="makes a new generation with the contents of an older one",
        runs="queued",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=True,
        repeat="by_id",
        blob="none",
        in_process=True,
        signed=True,
        parameters=(
            Parameter(
                name="id",
                type="hex16",
                required=True,
                meaning="id of the change, chosen by the client",
            ),
            Parameter(
                name="to",
                type="integer",
                required=True,
                meaning="the generation whose contents return",
            ),
            Parameter(
                name="base_generation",
                type="integer",
                required=False,
                meaning="the generation that the change was made for: the current one; not compared unless given",
            ),
            Parameter(
                name="reason",
                type="string",
                required=False,
                meaning="why, for the journal",
            ),
        ),
    ),
    "promote": Method(
        name="promote",
        summary="keeps a generation that is on trial",
        runs="queued",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="by_id",
        blob="none",
        in_process=True,
        signed=True,
        parameters=(
            Parameter(
                name="id",
                type="hex16",
                required=True,
                meaning="id of the change, chosen by the client",
            ),
            Parameter(
                name="generation",
                type="integer",
                required=True,
                meaning="the generation to keep",
            ),
        ),
    ),
    "renew": Method(
        name="renew",
        summary="gives the open trial more time",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=True,
        parameters=(
            Parameter(
                name="generation",
                type="integer",
                required=True,
                meaning="a generation on trial",
            ),
            Parameter(
                name="lease_ms",
                type="integer",
                required=True,
                meaning="milliseconds from now until the trial ends, at least 1",
            ),
            Parameter(
                name="id",
                type="hex16",
                required=False,
                meaning="id of the change, chosen by the client: repeated, it does nothing; required inside `signed`",
            ),
        ),
    ),
    "checkpoint": Method(
        name="checkpoint",
        summary="writes the changed weights to the journal as a whole",
        runs="queued",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="label",
                type="string",
                required=False,
                meaning="a label for the journal",
            ),
        ),
    ),
    "history": Method(
        name="history",
        summary="lists the newest records of the journal",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="from",
                type="integer",
                required=False,
                meaning="number of the first record, 0 unless given",
            ),
            Parameter(
                name="limit",
                type="integer",
                required=False,
                meaning="number of records at most, 100 unless given",
            ),
        ),
    ),
    "upload": Method(
        name="upload",
        summary="sends a piece of a blob that is too large for one message",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="by_id",
        blob="required",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="upload",
                type="hex16",
                required=True,
                meaning="id of the upload, chosen by the client",
            ),
            Parameter(
                name="offset",
                type="integer",
                required=True,
                meaning="where the piece starts: behind what was received",
            ),
            Parameter(
                name="total",
                type="integer",
                required=True,
                meaning="bytes of the whole upload, at least 1",
            ),
        ),
    ),
    "signed": Method(
        name="signed",
        summary="makes a change that is signed with the machine's mutation key",
        runs="queued",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=True,
        repeat="by_id",
        blob="optional",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="payload",
                type="string",
                required=True,
                meaning="base64 of the JSON object that is signed",
            ),
            Parameter(
                name="keyid",
                type="hex32",
                required=True,
                meaning="SHA-256 of the public key's 32 bytes",
            ),
            Parameter(
                name="sig",
                type="string",
                required=True,
                meaning="base64 of the Ed25519 signature, 64 bytes",
            ),
        ),
    ),
    "interrupt": Method(
        name="interrupt",
        summary="raises a neural interrupt",
        runs="inline",
        passes=True,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="never",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="vector",
                type="integer",
                required=False,
                meaning="number of the interrupt, 0 to 255; 255 unless given",
            ),
        ),
    ),
    "execute_pixels": Method(
        name="execute_pixels",
        summary="runs the pixel program in the blob",
        runs="beside",
        passes=False,
        cancellable=True,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="required",
        in_process=True,
        signed=False,
        parameters=(),
    ),
    "embed": Method(
        name="embed",
        summary="computes the embeddings of texts",
        runs="beside",
        passes=False,
        cancellable=True,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="texts",
                type="strings",
                required=True,
                meaning="1 to 64 texts",
            ),
            Parameter(
                name="normalize",
                type="boolean",
                required=False,
                meaning="whether each embedding is scaled to length 1; true unless given",
            ),
            Parameter(
                name="truncate",
                type="string",
                required=False,
                meaning="`end` cuts a text that is too long, `refuse` answers it with code 1004; `end` unless given",
            ),
        ),
    ),
    "generate": Method(
        name="generate",
        summary="generates text; a model that cannot is answered with code 1018",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="prompt",
                type="string",
                required=True,
                meaning="the text to continue",
            ),
            Parameter(
                name="max_tokens",
                type="integer",
                required=True,
                meaning="tokens to generate at most",
            ),
            Parameter(
                name="temperature",
                type="number",
                required=False,
                meaning="0 takes the most probable token",
            ),
            Parameter(
                name="top_k",
                type="integer",
                required=False,
                meaning="only so many tokens are chosen from; 0 is no limit",
            ),
            Parameter(
                name="top_p",
                type="number",
                required=False,
                meaning="only the most probable tokens of this total probability are chosen from",
            ),
            Parameter(
                name="seed",
                type="integer",
                required=False,
                meaning="seed of the random choice",
            ),
            Parameter(
                name="stop",
                type="strings",
                required=False,
                meaning="texts at which generation ends",
            ),
        ),
    ),
    "cancel": Method(
        name="cancel",
        summary="ends a cancellable request of the same connection",
        runs="inline",
        passes=True,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=True,
        signed=False,
        parameters=(
            Parameter(
                name="request",
                type="request_id",
                required=True,
                meaning="id of the request to end",
            ),
        ),
    ),
    "subscribe": Method(
        name="subscribe",
        summary="chooses the events that the machine sends on this connection",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="safe",
        blob="none",
        in_process=False,
        signed=False,
        parameters=(
            Parameter(
                name="events",
                type="strings",
                required=True,
                meaning="kinds of events; they replace those chosen before",
            ),
        ),
    ),
    "shutdown": Method(
        name="shutdown",
        summary="powers the machine off, or restarts it",
        runs="inline",
        passes=True,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="never",
        blob="none",
        in_process=False,
        signed=False,
        parameters=(
            Parameter(
                name="reboot",
                type="boolean",
                required=False,
                meaning="true restarts; false unless given",
            ),
        ),
    ),
    "reload": Method(
        name="reload",
        summary="replaces the worker process by one of another executable; nothing else changes",
        runs="apart",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="never",
        blob="required",
        in_process=False,
        signed=True,
        parameters=(
            Parameter(
                name="what",
                type="string",
                required=True,
                meaning="`binary`: the blob is the executable; `rts`: it is an RTS image of the same model",
            ),
            Parameter(
                name="key",
                type="hex32",
                required=False,
                meaning="the public key that signed the image; for a machine that was booted from a signed image",
            ),
            Parameter(
                name="base_generation",
                type="integer",
                required=False,
                meaning="the generation that must be the current one; not compared unless given",
            ),
            Parameter(
                name="base_build",
                type="string",
                required=False,
                meaning="the `build` that must be the running one; not compared unless given",
            ),
        ),
    ),
    "update_begin": Method(
        name="update_begin",
        summary="begins an update of the slot that does not run: judges it, and makes the slot unbootable",
        runs="apart",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="never",
        blob="required",
        in_process=False,
        signed=True,
        parameters=(
            Parameter(
                name="slot_bytes",
                type="integer",
                required=True,
                meaning="bytes that the RTS partition gets: the image, and behind it the hash tree if there is one",
            ),
            Parameter(
                name="slot_sha256",
                type="hex32",
                required=True,
                meaning="their SHA-256",
            ),
            Parameter(
                name="key",
                type="hex32",
                required=False,
                meaning="the public key that signed the image; for a machine that was booted from a signed image",
            ),
            Parameter(
                name="base_generation",
                type="integer",
                required=False,
                meaning="the generation that must be the current one; not compared unless given",
            ),
            Parameter(
                name="base_build",
                type="string",
                required=False,
                meaning="the `build` that must be the running one; not compared unless given",
            ),
        ),
    ),
    "update_write": Method(
        name="update_write",
        summary="writes the next bytes of the RTS partition",
        runs="apart",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="never",
        blob="required",
        in_process=False,
        signed=False,
        parameters=(
            Parameter(
                name="offset",
                type="integer",
                required=True,
                meaning="where they belong: the bytes that were written so far",
            ),
        ),
    ),
    "update_commit": Method(
        name="update_commit",
        summary="reads the partition back, writes the boot file, and makes the slot the default one",
        runs="apart",
        passes=False,
        cancellable=False,
        emergency=True,
        changes_weights=False,
        repeat="never",
        blob="none",
        in_process=False,
        signed=False,
        parameters=(),
    ),
    "fault": Method(
        name="fault",
        summary="makes the worker process fail, on machines that allow it for tests",
        runs="inline",
        passes=False,
        cancellable=False,
        emergency=False,
        changes_weights=False,
        repeat="never",
        blob="none",
        in_process=False,
        signed=False,
        parameters=(
            Parameter(
                name="what",
                type="string",
                required=True,
                meaning="kind of fault",
            ),
            Parameter(
                name="count",
                type="integer",
                required=False,
                meaning="number of processes for orphans, of the system call for call; 1 unless given",
            ),
        ),
    ),
}
"""By name."""
MEANINGS: Mapping[int, str] = {
    -32700: "not JSON, or a line too long",
    -32600: "not a request",
    -32601: "no such method",
    -32602: "wrong, missing or unknown parameters",
    -32800: "the request was cancelled",
    1001: "no such tensor",
    1002: "the tensor is protected",
    1003: "outside the tensor, or parts overlap or leave the blob",
    1004: "type, shape or length does not fit",
    1005: "a value would not be finite",
    1006: "confidence not above 0.8 (or not a number in 0..1)",
    1007: "made for another generation than the current one",
    1008: "the mutation changes nothing",
    1009: "the energy for mutations is spent",
    1010: "signature missing or wrong",
    1011: "wrong checksum of a blob, or its bytes stopped coming",
    1012: "blob or upload too large, unknown, or missing",
    1013: "too many edits in one mutation",
    1014: "no such generation, or no longer kept",
    1015: "the journal takes no changes; `data.reason` says why",
    1016: "the machine is in emergency mode",
    1017: "the machine is busy",
    1018: "the model cannot do that",
    1019: "the edit does not support the type of the tensor",
    1020: "the id was used for another change",
    1021: "the reload failed: the worker is the one from before",
    1023: "the update failed: the slot that runs is untouched",
}
"""What each error code means."""
REMEDIES: Mapping[int, str] = {
    -32700: "send one JSON object a line, of at most 65,536 bytes",
    -32600: "send an object with jsonrpc, id, method and params, as the protocol's specification says",
    -32601: "use a method that this version of the machine has",
    -32602: "correct the parameter that the message names",
    -32800: "send the request again if its result is still wanted",
    1001: "list the tensors with `tensors` and use one of their names",
    1002: "change another tensor: this one belongs to the machine",
    1003: "look up the size of the tensor with `tensors`",
    1004: "look up the type and shape of the tensor with `tensors`",
    1005: "use smaller values; if the weights themselves give such values, roll back",
    1006: "give a confidence above 0.8 and at most 1",
    1007: "read what has changed, then make the change for the current generation",
    1008: "give values that differ from the current ones",
    1009: "wait for the time that the message names, or mutate with --wait",
    1010: "sign the change with the key that the machine was built for",
    1011: "send the request again",
    1012: "send no more than the limits in the reply to `hello`, and an upload from its beginning",
    1013: "split the change into several mutations",
    1014: "list the generations with `history`",
    1015: "full: end the trial; io: reboot the machine; gone: save the weights; else give it its own state device",
    1016: "read the console of the machine, then shut it down and boot a sound image",
    1017: "ask for less at once, or, where `data.retry_ms` is given, try again after that time",
    1018: "boot a machine with a model that can",
    1019: "use a dense edit, or a tensor of another type",
    1020: "give a new id",
    1021: "read `data.reason`, and correct what it names",
    1023: "read `data.reason`, and correct what it names",
}
"""What a person can do about each error code."""
EVENT_KINDS = ("heartbeat", "mutation", "alert")
"""What a client can subscribe to."""
FAULT_KINDS = ("segv", "abort", "hang", "oom", "call", "orphans")
"""How the worker process can be made to fail, for tests."""
RELOAD_REASONS: Mapping[str, str] = {
    "format": "the blob is not a complete static executable for this machine, or not a sound RTS image",
    "model": "the image holds another model than the one that runs",
    "signature": "the machine runs a signed image, and the blob is not an image signed by the same key",
    "security_version": "the security version of the image is lower than that of the running one",
    "probe": "the executable did not get through a probe run",
    "version": "the executable speaks another version of the protocol, or takes over another version of the state",
    "memory": "there is not enough memory for two workers",
    "start": "the new worker died, or was not ready in time",
    "state": "the new worker did not arrive at the same weights",
    "busy": "a request that was running did not end in time",
    "switch": "the new worker failed while it took over",
    "probation": "the new worker died or made no progress within its probation",
}
"""Why a reload failed: the words of `data.reason` with code 1021, and what they mean."""
RELOAD_REMEDIES: Mapping[str, str] = {
    "format": "send the executable that `vboot build` makes, or a sound image",
    "model": "boot the image: a reload keeps the model",
    "signature": "send an image signed with that key, and name its public key with `--code-key`",
    "security_version": "build the image with a security version that is not lower",
    "probe": "run the executable with `--listen`, and correct what it says",
    "version": "boot the new version instead",
    "memory": "remove uploads that are not needed, or boot with more memory",
    "start": "read the console of the machine",
    "state": "boot the new version instead; it reads the journal in another way",
    "busy": "send the reload again when less runs",
    "switch": "read the console of the machine",
    "probation": "read the console of the machine",
}
"""What a person can do about each of them."""
UPDATE_REASONS: Mapping[str, str] = {
    "format": "the boot file or the RTS image is not sound, or is made for another machine or slot",
    "slot": "the machine runs from no slot, or its disk has no other one",
    "trial": "the slot that runs is not found good yet, and the other one may be needed",
    "signature": "the machine runs a signed image, and this one is not signed by the same key",
    "security_version": "the security version of the image is lower than that of the running one",
    "room": "the partition of the slot, or the ESP, has no room for it",
    "order": "the bytes do not continue what was written, or no update is under way",
    "digest": "what was written is not what was announced",
    "disk": "the disk cannot be read or written, or does not give back what was written",
    "memory": "there is not enough memory for the boot file",
    "stopped": "the process that writes has ended",
}
"""Why an update failed: the words of `data.reason` with code 1023, and what they mean."""
UPDATE_REMEDIES: Mapping[str, str] = {
    "format": "send what `vboot build --format disk` makes",
    "slot": "boot the machine from a disk with two slots",
    "trial": "wait for 600 heartbeats; `stats` says in `boot` whether the slot was found good",
    "signature": "send an image signed with that key, and name its public key with `--code-key`",
    "security_version": "build the image with a security version that is not lower",
    "room": "make a disk with larger partitions: `disk.slot_mib` and `disk.esp_mib`",
    "order": "begin the update again",
    "digest": "begin the update again, with one build",
    "disk": "read the console of the machine, and replace the disk",
    "memory": "remove uploads that are not needed, or boot with more memory",
    "stopped": "begin the update again; read the console of the machine",
}
"""What a person can do about each of them."""
RECORD_KINDS: Mapping[int, str] = {
    1: "mutate",
    2: "rollback",
    3: "promote",
    4: "lease_expired",
    5: "checkpoint",
    6: "worker_restart",
    7: "boot",
}
"""What a record of the journal is about, by its number in `cortex_journal`."""
JOURNAL_REASONS: Mapping[str, str] = {
    "full": "no room for the change is left, even after older entries were removed",
    "foreign": "the state device holds something else",
    "other_model": "the state device belongs to another model",
    "newer": "the state device has a format that this version does not know",
    "damaged": "the journal is damaged in the middle",
    "io": "a read, write or flush of the journal has failed; it is not used again before the next boot",
    "read_only": "the state device can only be read",
    "too_small": "the state device is too small, or smaller than it was",
    "gone": "the file of the state device was deleted, replaced or cut short while the machine ran",
}
"""Why the journal takes no changes: the words of `data.reason` with code 1015, and what they mean."""
JOURNAL_REMEDIES: Mapping[str, str] = {
    "full": "end the trial with `promote` or `rollback`, if one is open; else boot with a larger state device",
    "foreign": "boot with a new state file, or with a disk that holds only zeros",
    "other_model": "boot with the state device of this model, or with a new one",
    "newer": "boot with a version that knows the format",
    "damaged": "restore a copy of the state device, or use another one; `vboot journal verify` tells what is damaged",
    "io": "boot the machine again; if that does not help, copy the state device to another disk",
    "read_only": "make the state device writable, and boot the machine again",
    "too_small": "restore a whole copy of the state device, or boot with a new one of 16 MiB or more",
    "gone": "save the weights with `vboot save`, then boot with a new state file",
}
"""What a person can do about each of them."""
VERDICTS: Mapping[int, str] = {
    0: "applied",
    1: "refused",
}
"""The verdict of a record, by its number in `cortex_journal`."""
MACHINE_TENSORS = (
    MachineTensor("hw.mmio", "I32", 1024, True, "the device page, see spec/hw_mmio.toml"),
    MachineTensor("cortex_journal", "I8", 1048576, True, "ring of the newest records of the journal"),
    MachineTensor("kernel.0", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.1", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.2", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.3", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.4", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.5", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.6", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("kernel.7", "I8", 4096, True, "a built-in pixel program"),
    MachineTensor("evolved.0", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.1", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.2", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.3", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.4", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.5", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.6", "I8", 4096, False, "a slot for an evolved pixel program"),
    MachineTensor("evolved.7", "I8", 4096, False, "a slot for an evolved pixel program"),
)
PROTECTED_TENSORS = frozenset(tensor.name for tensor in MACHINE_TENSORS if tensor.protected)

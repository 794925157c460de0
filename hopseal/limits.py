"""Bounds of the custody wire format, each with its unit and section.

Owns: the numbers. Does not own: the checks, which stand where the bytes are read.
Source: custody-wire §4.2, §4.3, §6, §8.3 and §12.
"""

from __future__ import annotations

MAX_RECORDS = 8  # records in one chain, hop 0 to 7; §12
MAX_RECORD_BYTES = 4_096  # one sealed record; §12
MAX_CHAIN_BYTES = 12_288  # Custody-Chain value; §12
MAX_CERTS_BYTES = 8_192  # Custody-Certs value; §12
MAX_CERTS = 10  # certificates in Custody-Certs; §12
MAX_CERT_BYTES = 2_048  # one certificate, DER; §12
MAX_CUSTODY_BYTES = 20_480  # all Custody fields of a request, names and values; §12

MAX_STATEMENTS_ACCEPTED = 256  # statements under one seal, as a receiver; §4.2
MAX_STATEMENTS_SEALED = 32  # statements under one seal, as a sealer; §4.2
MAX_JSON_DEPTH = 4  # nested containers, the top object is 1; §4.3
MAX_INTEGER = 2**53 - 1  # what every JSON library reads exactly

RECORD_LIFETIME_S = 60  # exp - iat at most; §12
DEFAULT_RECORD_LIFETIME_S = 30  # §4.3
CLOCK_SKEW_S = 10  # SPIRE's NotBefore cushion; §6.8
CHAIN_AGE_S = 900  # age of a root without resume; §12
AUTHORITY_LIFETIME_S = 3_600  # auth.exp - root iat at most; §12

MAX_OPERATION_BYTES = 128  # op; §4.3
MAX_BASED_ON = 8  # in; §4.3
MAX_APPROVALS = 4  # apv; §4.3
MAX_KIDS_LISTED = 8  # kids; §7.1
MAX_DECISION_BYTES = 128  # dec; §7.1
MIN_STATUS, MAX_STATUS = 100, 999  # st: three digits; §7.1
MAX_HOST_BYTES = 256  # host of an observation
MAX_LOG_ORIGIN_BYTES = 256
MAX_VKEY_BYTES = 2_048  # holds an ML-DSA-44 key behind a long name
MAX_PROBLEM_BYTES = 16_384  # problem document of a peer; §13
MAX_MISSING = 32  # items that it may name; §13
MAX_FORWARDED_BYTES = 16_384  # x-forwarded-client-cert of a proxy; §9.7
MAX_MESSAGE_JSON_DEPTH = 32  # nested containers of an MCP message; §9.6
MAX_CANONICAL_DEPTH = 64  # nested containers of JSON with a canonical form, such as a tool's arguments
MAX_TASK_ID_BYTES = 128
MAX_PURPOSE_BYTES = 64  # task.pc; §8.2
MAX_PATTERNS = 32  # entries of aud or ops
MAX_PATTERN_BYTES = 256
MAX_AUDIENCE_BYTES = 256

MAX_TOKEN_BYTES = 8_192  # one user token, ASCII
MAX_TOKEN_JSON_DEPTH = 16  # nested containers in a token's header or claims
MAX_LINE_JSON_DEPTH = MAX_TOKEN_JSON_DEPTH + 1  # of a log's line, which can hold a token's claims
MAX_TOKEN_TEXT_BYTES = 256  # iss, sub, txn and the workload of a token: they go into records
MAX_TOKEN_AUDIENCES = 16
MAX_ISSUER_KEYS = 64  # keys of one issuer
MAX_KEY_ID_BYTES = 256

CERTIFICATE_CACHE_ENTRIES = 4_096  # §12
CERTIFICATES_PER_PEER = 64  # of them that one peer may bring in; §12
PREFIX_CACHE_ENTRIES = 8_192  # §12
PREFIXES_PER_PEER = 2_048  # of them that one peer may bring in; §12
SEAL_CACHE_ENTRIES = 65_536  # §12
PATH_CACHE_ENTRIES = 4_096  # validated certificate paths
REPLAY_ENTRIES = 65_536  # used statements; §12
ROOT_ENTRIES = 65_536  # chains whose root issuer is known; §5.1

SIGNING_MARGIN_S = 30  # do not sign this close to notAfter, nor in the last sixth; §17
SIGNING_MARGIN_SHARE = 6

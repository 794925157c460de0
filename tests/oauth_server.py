"""A real authorization server for tests: Authlib's, over HTTP on the loopback interface.

It issues RFC 9068 access tokens and Transaction Tokens: ``password`` logs a user in, ``client_credentials`` serves a
workload itself, and token exchange (RFC 8693) turns a user's access token into one for the workload that asks.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from typing import Any, Self

from authlib.oauth2.rfc6749 import AuthorizationServer as BaseServer
from authlib.oauth2.rfc6749 import ClientMixin, OAuth2Request
from authlib.oauth2.rfc6749.errors import InvalidGrantError, UnauthorizedClientError
from authlib.oauth2.rfc6749.grants import (
    BaseGrant,
    ClientCredentialsGrant,
    ResourceOwnerPasswordCredentialsGrant,
    TokenEndpointMixin,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc9068 import JWTBearerTokenGenerator
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

ISSUER = "https://as.example.org"
AUDIENCE = "https://crm.example.org"
TRUST_DOMAIN = "example.org"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
TXN_TYPE = "urn:ietf:params:oauth:token-type:txn_token"
_AUTH = ["client_secret_post"]


@dataclass
class User:
    name: str
    password: str

    def get_user_id(self) -> str:
        return self.name


@dataclass
class Client(ClientMixin):
    """A workload, known by its SPIFFE ID."""

    client_id: str
    secret: str

    def get_client_id(self) -> str:
        return self.client_id

    def check_client_secret(self, client_secret: str) -> bool:
        return client_secret == self.secret

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        return method in _AUTH

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in {"password", "client_credentials", EXCHANGE}

    def get_allowed_scope(self, scope: str) -> str:
        return scope or ""


class Generator(JWTBearerTokenGenerator):
    def __init__(self, server: AuthServer) -> None:
        super().__init__(issuer=ISSUER, alg="ES256", expires_generator=lambda *_: server.lifetime_s)
        self._server = server

    def get_jwks(self) -> KeySet:
        return KeySet([self._server.key])

    def get_audiences(self, client: Client, user: User | None, scope: str) -> str:
        return self._server.audience


class Credentials(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH


class Password(ResourceOwnerPasswordCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH

    def authenticate_user(self, username: str, password: str) -> User | None:
        user = self.server.users.get(username)
        return user if user and user.password == password else None


class Exchange(BaseGrant, TokenEndpointMixin):
    """RFC 8693: a user's access token for one that is issued to the client that asks."""

    GRANT_TYPE = EXCHANGE
    TOKEN_ENDPOINT_AUTH_METHODS = _AUTH

    def validate_token_request(self) -> None:
        client = self.authenticate_token_endpoint_client()
        if not client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError
        self.request.client = client
        try:
            claims = jwt.decode(self.request.form["subject_token"], self.server.key).claims
        except Exception as error:
            raise InvalidGrantError from error
        self.request.user = self.server.users.get(claims["sub"])
        scope = set((self.request.payload.scope or claims["scope"]).split())
        if self.request.user is None or claims["exp"] <= time.time() or not scope <= set(claims["scope"].split()):
            raise InvalidGrantError

    def create_token_response(self) -> tuple[int, Any, Any]:
        scope = self.request.payload.scope
        if self.request.form.get("requested_token_type") == TXN_TYPE:
            text = self.server.issue_txn(self.request.user, self.client, scope)
            answer = {"access_token": text, "issued_token_type": TXN_TYPE, "token_type": "N_A"}
        else:
            answer = self.generate_token(user=self.request.user, scope=scope, include_refresh_token=False)
        self.save_token(answer)
        return 200, answer, self.TOKEN_RESPONSE_HEADER


class Request(OAuth2Request):
    def __init__(self, path: str, form: dict[str, str], headers: dict[str, str]) -> None:
        super().__init__("POST", ISSUER + path, headers=headers)
        self._form = form
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self) -> dict[str, str]:
        return self._form

    @property
    def args(self) -> dict[str, str]:
        return {}


class AuthServer(BaseServer):
    """The authorization server with its users, clients and one signing key."""

    def __init__(self) -> None:
        super().__init__()
        self.users = {name: User(name, f"{name}'s password") for name in ("alice", "bob")}
        self.clients: dict[str, Client] = {}
        self.audience = AUDIENCE
        self.lifetime_s = 300
        self.context: dict[str, Any] = {"channel": "test"}
        self.issued: list[str] = []
        self.rotate("key-1")
        self.register_token_generator("default", Generator(self))
        for grant in (Credentials, Password, Exchange):
            self.register_grant(grant)

    def rotate(self, kid: str) -> None:
        """Sign with a new key from now on and publish no other."""
        self.key = ECKey.generate_key("P-256", {"kid": kid, "use": "sig", "alg": "ES256"})

    def key_set(self) -> dict[str, Any]:
        return {"keys": [self.key.as_dict(private=False)]}

    def issue_txn(self, user: User, client: Client, scope: str) -> str:
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": TRUST_DOMAIN,
            "sub": user.get_user_id(),
            "txn": f"txn-{len(self.issued)}",
            "iat": now,
            "exp": now + self.lifetime_s,
            "scope": scope,
            "req_wl": client.client_id,
            "rctx": self.context,
        }
        header = {"alg": "ES256", "typ": "txntoken+jwt", "kid": self.key.kid}
        return jwt.encode(header, claims, self.key)

    def query_client(self, client_id: str) -> Client | None:
        return self.clients.get(client_id)

    def save_token(self, token: dict[str, Any], request: OAuth2Request) -> None:
        self.issued.append(token["access_token"])

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def create_oauth2_request(self, request: Request) -> Request:
        return request

    def handle_response(self, status: int, body: Any, headers: Any) -> tuple[int, bytes]:
        return status, body.encode() if isinstance(body, str) else json.dumps(body).encode()


@dataclass
class Served:
    """The authorization server behind a port; everything a test does goes through HTTP."""

    server: AuthServer = field(default_factory=AuthServer)
    fail: bool = False
    fetches: int = 0

    def __enter__(self) -> Self:
        served = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                served.fetches += 1
                if served.fail or self.path != "/jwks":
                    self._answer(500 if served.fail else 404, b"")
                else:
                    self._answer(200, json.dumps(served.server.key_set()).encode())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                form = dict(urllib.parse.parse_qsl(body))
                self._answer(*served.server.create_token_response(Request(self.path, form, dict(self.headers))))

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                """Silent."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def register(self, spiffe_id: str) -> None:
        """Make a workload a client."""
        self.server.clients[spiffe_id] = Client(spiffe_id, f"secret of {spiffe_id}")

    def log_in(self, user: str, client: str, scope: str = "crm.read crm.write") -> str:
        """The access token that ``client`` gets for ``user``."""
        return self._token(client, grant_type="password", username=user, password=f"{user}'s password", scope=scope)

    def credentials(self, client: str, scope: str = "crm.read") -> str:
        """The access token that ``client`` gets for itself."""
        return self._token(client, grant_type="client_credentials", scope=scope)

    def exchange(self, subject_token: str, client: str, scope: str = "crm.read", *, txn: bool = True) -> str:
        """A token on behalf of the user of ``subject_token``, issued to ``client``."""
        kind = {"requested_token_type": TXN_TYPE} if txn else {}
        return self._token(client, grant_type=EXCHANGE, subject_token=subject_token, scope=scope, **kind)

    def _token(self, client: str, **form: str) -> str:
        form |= {"client_id": client, "client_secret": f"secret of {client}"}
        request = urllib.request.Request(f"{self.url}/token", urllib.parse.urlencode(form).encode())
        with urllib.request.urlopen(request, timeout=10) as response:
            answer: dict[str, str] = json.load(response)
        return answer["access_token"]


def issuers_json(served: Served) -> str:
    """What a control process that has fetched the keys gives the data plane."""
    keys = served.server.key_set()
    return json.dumps(
        [
            {"issuer": ISSUER, "type": "txn", "audience": [TRUST_DOMAIN], "jwks": keys},
            {"issuer": ISSUER, "type": "at", "audience": [AUDIENCE], "jwks": keys},
        ]
    )

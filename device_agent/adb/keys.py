"""RSA keys as ADB has them: a PEM private key, and a public key in Android's own binary form.

The binary form is the struct RSAPublicKey of AOSP's libcrypto_utils/android_pubkey.cpp: little-endian words of
modulus size, -1/n mod 2^32, the modulus, R^2 mod n with R = 2^2048, and the exponent.
"""

import base64
import getpass
import os
import socket
import struct
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from device_agent.adb.errors import KeyUnusable

_BITS = 2048
_LAYOUT = "<II256s256sI"
_TOKEN_DIGEST = utils.Prehashed(hashes.SHA1())  # noqa: S303 - the protocol signs the 20-byte token as if it were one


def ensure_key(generated: Path) -> Path:
    """The path of the private key to use: the user's own ADB key if there is one, else `generated`, made if absent.

    A phone that was ever authorised for `adb` on this host then needs no second prompt.
    """
    own = Path(os.environ.get("ANDROID_USER_HOME") or Path.home() / ".android") / "adbkey"
    if own.is_file() and os.access(own, os.R_OK):
        return own
    if not generated.is_file():
        generated.parent.mkdir(parents=True, exist_ok=True)
        pem = rsa.generate_private_key(public_exponent=65537, key_size=_BITS).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        scratch = generated.with_name(f"{generated.name}.{os.getpid()}")
        scratch.touch(mode=0o600)
        scratch.write_bytes(pem)
        scratch.replace(generated)
    return generated


def signers(key_path: Path) -> list["Signer"]:
    """A signer for `key_path`, and one for each key that ADB_VENDOR_KEYS names: files, or folders of *.adb_key.

    Raises:
        KeyUnusable: one of them is no key.
    """
    paths = [key_path]
    for named in map(Path, filter(None, os.environ.get("ADB_VENDOR_KEYS", "").split(":"))):
        paths += sorted(named.glob("*.adb_key")) if named.is_dir() else [named]
    return [Signer(path) for path in dict.fromkeys(paths)]


class Signer:
    """Answers a phone's challenge with a private key; the interface is the one that adb-shell asks of a signer."""

    def __init__(self, path: Path) -> None:
        """Load the key.

        Raises:
            KeyUnusable: the file holds no RSA private key of 2048 bits without a password.
        """
        advice = "Move it away; another is made."
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, TypeError, ValueError) as error:
            raise KeyUnusable(f"The key {path} cannot be read: {error}.", advice=advice) from None
        if not isinstance(key, rsa.RSAPrivateKey) or key.key_size != _BITS:
            raise KeyUnusable(f"{path} holds no {_BITS}-bit RSA key.", advice=advice)
        self._key = key

    def Sign(self, token: bytes) -> bytes:
        """The signature of a 20-byte token."""
        return self._key.sign(bytes(token), padding.PKCS1v15(), _TOKEN_DIGEST)

    def GetPublicKey(self) -> bytes:
        """The public key as a phone's list of keys holds it: base64, a space, user@host."""
        owner = f"{getpass.getuser()}@{socket.gethostname()}"
        return encode_public_key(self._key.public_key()) + b" " + owner.encode()


def encode_public_key(key: rsa.RSAPublicKey) -> bytes:
    """Android's binary form, in base64."""
    numbers = key.public_numbers()
    n0inv = (1 << 32) - pow(numbers.n, -1, 1 << 32)
    rr = pow(1 << _BITS, 2, numbers.n)
    words = struct.pack(
        _LAYOUT,
        _BITS // 32,
        n0inv,
        numbers.n.to_bytes(256, "little"),
        rr.to_bytes(256, "little"),
        numbers.e,
    )
    return base64.b64encode(words)


def decode_public_key(encoded: bytes) -> rsa.RSAPublicKey:
    """The key in base64 of Android's binary form.

    Raises:
        ValueError: not such a key.
    """
    raw = base64.b64decode(encoded, validate=True)
    if len(raw) != struct.calcsize(_LAYOUT):
        raise ValueError("not an Android RSA public key")
    words, _, modulus, _, exponent = struct.unpack(_LAYOUT, raw)
    if words != _BITS // 32:
        raise ValueError("not a 2048-bit key")
    return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "little")).public_key()


def signed_by(encoded: bytes, token: bytes, signature: bytes) -> bool:
    """Whether `signature` over `token` was made with the private half of this public key."""
    try:
        decode_public_key(encoded).verify(signature, token, padding.PKCS1v15(), _TOKEN_DIGEST)
    except (InvalidSignature, ValueError):
        return False
    return True

"""Header blocks by the package hpack, an encoder and decoder that is not ours. Output, a JSON line each:
{"connection": number, "block": hex, "fields": [[name, value] in hex], or null where hpack's decoder refuses the block}.

Blocks of one connection follow each other and share a table; a connection ends with a block that was changed.
"""
import json
import random
import sys

from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError

dice = random.Random(int(sys.argv[1]))
NAMES = [b":method", b":path", b":authority", b":status", b"authorization", b"accept", b"cookie", b"x-a", b"grpc-status"]


def text(most):
    alphabet = dice.choice([b"abcdefgh0123456789", bytes(range(32, 127)), bytes(range(256))])
    return bytes(dice.choice(alphabet) for _ in range(dice.randrange(most)))


def field(seen):
    if seen and dice.random() < 0.5:
        name, value = dice.choice(seen)
    else:
        name = dice.choice(NAMES) if dice.random() < 0.7 else b"x-" + text(12).lower()
        value = dice.choice([b"GET", b"/", b"200", b""]) if dice.random() < 0.3 else text(dice.choice([8, 40, 300]))
    seen.append((name, value))
    return (NeverIndexedHeaderTuple if dice.random() < 0.1 else HeaderTuple)(name, value)


def said(connection, decoder, block):
    try:
        fields = [[bytes(name).hex(), bytes(value).hex()] for name, value in decoder.decode(block, raw=True)]
    except HPACKError:
        fields = None
    print(json.dumps({"connection": connection, "block": block.hex(), "fields": fields}))


for connection in range(200):
    encoder, decoder, seen = Encoder(), Decoder(), []
    for _ in range(dice.randrange(1, 30)):
        if dice.random() < 0.1:
            encoder.header_table_size = dice.choice([0, 64, 200, 1000, 4096])
        block = encoder.encode([field(seen) for _ in range(dice.randrange(12))], huffman=dice.random() < 0.5)
        said(connection, decoder, block)
    changed = bytearray(block or b"\x82")
    changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    said(connection, decoder, bytes(changed))

"""DuckDB's answers to the collector's questions, on the same Parquet files.

Reads one JSON object a line from standard input: {"files": glob}, then questions {"where": AST, "by": [column..] or
null}; writes one JSON line for each question: the keys of the rows, newest first, or the counts by group. The AST is
the parsed query; what its terms mean is written here anew, in SQL.
"""

import ipaddress
import json
import sys

import duckdb


def in_block(text, first, last):
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 4:
        address = ipaddress.ip_address("::ffff:" + text)
    return int(first) <= int(address) <= int(last)


def has_text(text, value, prefix):
    """A list or map has this text in it, or one that begins so."""
    found = json.loads(text)
    texts = list(found) + list(found.values()) if isinstance(found, dict) else found
    return any(t.startswith(value) if prefix else t == value for t in texts if isinstance(t, str))


def literal(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return "'" + value.replace("'", "''") + "'"


def nanos(column):
    return f"(epoch_us({column}) * 1000 + {column}_nanos)"


def term(t):
    column, kind, test = t["column"], t["kind"], t["test"]
    if test == "exists":
        return f"{column} IS NOT NULL"
    if test == "within":
        return f"in_block({column}, '{t['first']}', '{t['last']}')"
    if test in ("equals", "prefix") and kind in ("text", "address", "fingerprint", "list"):
        value, prefix = literal(t["value"]), test == "prefix"
        own = f"starts_with({column}, {value})" if prefix else f"{column} = {value}"
        if kind == "list":
            return f"has_text({column}, {value}, {literal(prefix)})"
        if kind == "fingerprint":
            more = f"coalesce(has_text(fingerprints_more, {value}, {literal(prefix)}), false)"
            return f"(coalesce({own}, false) OR {more})"
        return own
    left = nanos(column) if kind == "time" else column
    if test == "equals" and kind == "boolean":
        return f"{left} = {literal(t['value'])}"
    bounds = [f"{left} >= {t['from']}" if "from" in t else "true", f"{left} < {t['to']}" if "to" in t else "true"]
    return "(" + " AND ".join(bounds) + f" AND {left} IS NOT NULL)"


def where(q):
    kind = q["is"]
    if kind == "all":
        return "true"
    if kind == "not":
        return f"(NOT {where(q['query'])})"
    if kind in ("and", "or"):
        return "(" + f" {kind} ".join(where(part) for part in q["queries"]) + ")"
    return f"coalesce({term(q)}, false)"


def main():
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    text, flag = "VARCHAR", "BOOLEAN"
    con.create_function("in_block", in_block, [text, text, text], flag)
    con.create_function("has_text", has_text, [text, text, flag], flag)
    files = json.loads(sys.stdin.readline())["files"]
    con.execute(f"CREATE TABLE events AS SELECT * FROM read_parquet({literal(files)}, union_by_name = true)")
    for line in sys.stdin:
        question = json.loads(line)
        taken = f"FROM events WHERE {where(question['where'])}"
        if question["by"] is None:
            order = "time DESC, time_nanos DESC, producer_id DESC, producer_epoch DESC, producer_sequence DESC"
            keys = con.execute(f"SELECT producer_id, producer_epoch, producer_sequence {taken} ORDER BY {order}")
            answer = [list(row) for row in keys.fetchall()]
        else:
            groups = [f"epoch_us(time) // {question['every']} * {question['every']}"] if question["every"] else []
            groups += question["by"]
            columns = ", ".join(groups + ["count(*)"])
            grouped = con.execute(f"SELECT {columns} {taken} GROUP BY {', '.join(groups)}" if groups else f"SELECT {columns} {taken}")
            answer = sorted(json.dumps(list(row), ensure_ascii=False, separators=(",", ":")) for row in grouped.fetchall())
        print(json.dumps(answer), flush=True)


main()

"""What the Nexmark queries must give, computed as one batch by DuckDB from their definitions.

usage: oracle.py EVENTS EXPECTED [QUERY]

Reads person.ndjson, auction.ndjson and bid.ndjson in the folder EVENTS, and writes q0.ndjson to q8.ndjson and count.ndjson, or that
of one query, to the folder EXPECTED: a JSON object a line, in no order that means anything. Times are milliseconds. Windows are half-open, aligned to
the epoch, named by their start; those that the first and the last event cut are told like others.
"""
import json
import pathlib
import sys

import duckdb

COLUMNS = {
    "person": {"id": "BIGINT", "name": "VARCHAR", "city": "VARCHAR", "state": "VARCHAR", "date_time": "BIGINT"},
    "auction": {"id": "BIGINT", "date_time": "BIGINT", "expires": "BIGINT", "seller": "BIGINT", "category": "BIGINT"},
    "bid": {"auction": "BIGINT", "bidder": "BIGINT", "price": "BIGINT", "date_time": "BIGINT", "extra": "VARCHAR"},
}

# The winning price of each auction that had a bid while it was open.
WINNING = """
    select a.id, a.seller, a.category, a.expires, max(b.price) as price
    from auction a join bid b on b.auction = a.id and b.date_time between a.date_time and a.expires
    group by all
"""

QUERIES = {
    "q0": "select auction, bidder, price, date_time, extra from bid",
    "q1": "select auction, bidder, price, price * 908 as price_milli, date_time, extra from bid",
    "q2": "select auction, price from bid where auction % 123 = 0",
    "q3": """
        select p.name, p.city, p.state, a.id from auction a join person p on a.seller = p.id
        where a.category = 10 and p.state in ('or', 'id', 'ca')
    """,
    "q4": f"""
        select category, sum(price) // count(*) as avg_price, sum(price) as sum_price, count(*) as auctions
        from ({WINNING}) group by category
    """,
    "q5": """
        with hop as (
            select (date_time // 2000 - k) * 2000 as window_start, auction from bid cross join range(5) as steps(k)
        ), counted as (
            select window_start, auction, count(*) as num from hop group by all
        )
        select window_start, auction, num from counted
        qualify num = max(num) over (partition by window_start)
    """,
    "q6": f"""
        select seller, id as auction, sum(price) over latest as sum_last10, count(*) over latest as n from ({WINNING})
        window latest as (partition by seller order by expires, id rows between 9 preceding and current row)
    """,
    "q7": """
        select date_time // 10000 * 10000 as window_start, auction, bidder, price, date_time, extra from bid
        qualify price = max(price) over (partition by date_time // 10000)
    """,
    "q8": """
        select p.date_time // 10000 * 10000 as window_start, p.id, p.name from person p
        where exists (
            from auction a where a.seller = p.id and a.date_time // 10000 = p.date_time // 10000
        )
    """,
    # No Nexmark query: the keyed count of tests/nexmark.
    "count": """
        select date_time // 2000 * 2000 as window_start, bidder, count(*) as bids, sum(price) as total from bid group by all
    """,
}


def main(events: pathlib.Path, expected: pathlib.Path, names: list[str]) -> None:
    connection = duckdb.connect()
    for table, columns in COLUMNS.items():
        reader = f"read_json('{events / table}.ndjson', format = 'newline_delimited', columns = {columns})"
        connection.execute(f"create table {table} as from {reader}")
    for name in names or QUERIES:
        rows = connection.execute(QUERIES[name])
        columns = [column[0] for column in rows.description]
        with open(expected / f"{name}.ndjson", "w", encoding="utf-8") as out:
            while chunk := rows.fetchmany(10_000):
                out.writelines(json.dumps(dict(zip(columns, row))) + "\n" for row in chunk)


main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:])

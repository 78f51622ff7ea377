"""Orders, and what must come of them, computed without any of the code under test.

usage: oracle.py COUNT INPUT EXPECTED

Writes COUNT orders to INPUT, a JSON object a line, and to EXPECTED what pipeline.toml must make of them: the subject, a
tab, and a JSON object a line, in order.
"""
import json
import random
import sys

count, input_path, expected_path = int(sys.argv[1]), sys.argv[2], sys.argv[3]
chance = random.Random(20_261_124)
with open(input_path, "w") as given, open(expected_path, "w") as expected:
    for number in range(count):
        order = {
            "id": number,
            "region": chance.choice(["eu", "us", "asia", None]),
            "amount": round(chance.uniform(0, 1000), chance.choice([0, 2, 5])),
            "count": chance.randrange(-3, 50),
            "note": chance.choice(["", "späť", 'a "quoted" word', "tab\tand\nline", "\U0001f600", None]),
            "unread": [number, {"x": None}],
        }
        if chance.random() < 0.05:
            del order["note"]
        given.write(json.dumps(order, ensure_ascii=chance.random() < 0.5) + "\n")
        region, amount, pieces = order["region"], order["amount"], order["count"]
        # filter: amount >= 10 and region is not null
        if amount < 10 or region is None:
            continue
        total = amount * pieces
        row = {
            "id": number,
            "region": region,
            "amount": amount,
            "count": pieces,
            "note": order.get("note"),
            "total": total,
            "gross": total * 1.19,
            "label": f"{region.upper()}-{number}",
            "bulk": pieces > 10,
        }
        subject = "shop.eu" if region == "eu" else f"shop.other.{region}"
        expected.write(f"{subject}\t{json.dumps(row)}\n")

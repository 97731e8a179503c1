"""Elasticsearch for the pool: check the connection, or load its views into Kibana.

`check` says which version answers, whether the settings in hub.yaml let us in and may write, and what to do where
not. `kibana` loads data views, a search, a chart and a dashboard by capture source; loading them again replaces them.

examples:
  wirepool store check
  wirepool store kibana --url https://kibana:5601
  wirepool store kibana --file wirepool.ndjson      write them into a file instead (Kibana: Saved objects, Import)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hub import config
from hub.pool.elastic.connection import Answered, Connection
from hub.pool.elastic.keeping import Keeping
from hub.pool.elastic.kibana import load, saved_objects
from hub.pool.elastic.settings import access_of, indices_of
from hub.pool.store import StoreAway, StoreRefused
from hub.terminal import add_state, complain, opened_state, printable, shown_size, with_clear_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_state(parser)
    parser.add_argument("what", choices=("check", "kibana"), help="what to do")
    parser.add_argument(
        "--config", metavar="FILE", help="settings (default: hub/hub.yaml in the state directory)"
    )
    parser.add_argument("--url", metavar="URL", help="kibana: where it is")
    parser.add_argument(
        "--file", metavar="FILE", help="kibana: write the objects here instead; - for standard output"
    )


@with_clear_errors
def run(args: argparse.Namespace) -> int:
    """One look, or one load."""
    path = Path(args.config) if args.config else opened_state(args.state).hub / "hub.yaml"
    try:
        settings = config.load(path, required=args.config is not None)
        if args.what == "kibana":
            return _kibana(args, settings)
        return _check(settings)
    except config.ConfigError as error:
        complain(str(error))
        return 2
    except (StoreAway, StoreRefused) as error:
        complain(printable(str(error)))
        return 1


def _check(settings: config.HubSettings) -> int:
    access, indices = access_of(settings), indices_of(settings)
    connection = Connection(access)
    try:
        cluster = connection.cluster()
        print(
            f"Elasticsearch {cluster.version}, cluster {printable(cluster.name)!r}, status {cluster.status}"
        )
        keeping = Keeping(connection, indices)
        keeping.install_templates()
        trial = f"{indices.quarantine}-check"
        connection.ask("PUT", f"/{trial}/_doc/check", {"@timestamp": 0}, query={"op_type": "index"})
        connection.ask("DELETE", f"/{trial}")
        sizes = keeping.sizes()
    except Answered as error:
        complain(f"it lets us in, but not do what the pool needs: {printable(str(error))}")
        return 1
    finally:
        connection.close()
    documents, size = sum(one.documents for one in sizes), sum(one.bytes for one in sizes)
    print(
        f"templates {indices.prefix}-* are in place; {len(sizes)} indices, {documents:,} documents, {shown_size(size)}"
    )
    if cluster.status == "red":
        complain("the cluster is red: parts of its data are away; ask it: GET /_cluster/allocation/explain")
        return 1
    if cluster.status == "yellow" and indices.replicas:
        print("yellow: copies have no node to be on; add one, or set elasticsearch_replicas: 0")
    print("it can be used")
    return 0


def _kibana(args: argparse.Namespace, settings: config.HubSettings) -> int:
    indices = indices_of(settings)
    if args.file:
        if args.file == "-":
            sys.stdout.buffer.write(saved_objects(indices))
        else:
            Path(args.file).write_bytes(saved_objects(indices))
        return 0
    if not args.url:
        complain("want --url (where Kibana is) or --file (where to write the objects)")
        return 2
    print(
        f"Kibana took {load(args.url, access_of(settings), indices)} objects; open its dashboards: wirepool"
    )
    return 0

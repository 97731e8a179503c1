"""docs/agent-configuration.md, generated from the table in `agent.settings` (and a test compares)."""

from __future__ import annotations

from agent.settings import SECTIONS, SETTINGS, Setting, type_text

EXAMPLE = """
name: web1
spool:
  directory: /srv/spool
  max_bytes: 20 GiB
publish:
  window: 8
log:
  level: info
"""


def documentation() -> str:
    """docs/agent-configuration.md, whole."""
    lines = [
        "# Configuration of the agent",
        "",
        "<!-- generated from agent/settings.py by `python -m agent.settings_page`; a test compares -->",
        "",
        "The agent runs without a configuration file: enrolment gives it all it needs. A file changes what is below:",
        "`wirepool agent run --config agent.yaml`. `wirepool agent check-config agent.yaml` says what is wrong with a",
        "file, with line, reason and remedy. Unknown keys are errors. Sizes may be written as `64 MiB`, `1 GB` or a",
        "number of bytes. Relative paths are relative to the file.",
        "",
    ]
    for section in ("", *SECTIONS):
        lines += [
            f"## {section or 'General'}",
            "",
            "| key | type | default | what it does |",
            "|---|---|---|---|",
        ]
        for key, (_, setting) in SETTINGS.items():
            if (key.split(".")[0] if "." in key else "") == section:
                lines.append(
                    f"| `{key}` | {type_text(setting)} | {setting.default_text} | {_help(setting)} |"
                )
        lines.append("")
    lines += ["## Example", "", "```yaml", EXAMPLE.strip(), "```", ""]
    return "\n".join(lines)


def _help(setting: Setting) -> str:
    return setting.help + (f" Example: `{setting.example}`" if setting.example else "")


if __name__ == "__main__":
    print(documentation(), end="")

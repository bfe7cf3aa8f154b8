"""The ladder as text."""

from ktls_agent.sansio.capture.explanation import Row
from ktls_agent.sansio.capture.ladder_text import WIDTH, Rung, draw_ladder, row_rung
from ktls_agent.sansio.capture.messages import detail


def test_arrows_remarks_and_details() -> None:
    drawn = draw_ladder(
        [
            Rung(at=0.0, side="kernel", text="ACCEPT", inward=False),
            Rung(at=0.0004, side="kernel", text="request", inward=True, details=("PEERNAME: server.test",)),
            Rung(at=0.00161, side="peer", text="ClientHello (284 B)", inward=False),
            Rung(at=1.25, side="peer", text="ServerHello", inward=True),
            Rung(at=100.0, side="peer", text="done", inward=None, details=("word " * 12,)),
        ]
    )
    assert drawn == [
        "     ms  kernel                                    agent                                       peer",
        "    0.0  |<- ACCEPT ---------------------------------|                                           |",
        "    0.4  |-- request ------------------------------->|                                           |",
        "         |    PEERNAME: server.test                  |                                           |",
        "    1.6  |                                           |-- ClientHello (284 B) ------------------->|",
        " 1250.0  |                                           |<- ServerHello ----------------------------|",
        "100000.0  |                                           |   [done]                                  |",
        "         |                                           |    word word word word word word word     |",
        "         |                                           |      word word word word word             |",
    ]


def test_no_line_is_wider_than_the_ladder() -> None:
    long = "x" * 200
    lines = draw_ladder([Rung(at=0.0, side="peer", text=long, inward=inward, details=(long,)) for inward in (True, False, None)])  # fmt: skip
    assert set(map(len, lines[1:])) == {WIDTH}
    assert lines[1].count("...") == 1


def test_a_remark_is_cut_too() -> None:
    (_, line) = draw_ladder([Rung(at=0.0, side="peer", text="x" * 200, inward=None)])
    assert len(line) == WIDTH


def test_a_row_of_an_explanation_is_a_rung() -> None:
    assert row_rung(
        Row(
            at=1.0,
            source="agent",
            target="peer",
            label="Finished",
            size=52,
            details=(detail("a", ["b", "c"]),),
            defect="broken",
        )
    ) == Rung(
        at=1.0, side="peer", text="Finished (52 B)", inward=False, details=("a: b, c", "defect: broken")
    )
    assert row_rung(Row(at=0.0, source="kernel", target="agent", label="x")) == Rung(
        at=0.0, side="kernel", text="x", inward=True
    )
    assert row_rung(Row(at=0.0, source="agent", target="agent", label="x")) == Rung(
        at=0.0, side="peer", text="x", inward=None
    )

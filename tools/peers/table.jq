# The tables of docs/peers.md, of the cards that `measure` has printed.
def of($attacks): [.card.attacks[] | select(.attack as $one | $attacks | index($one))];
def count($outcome): map(select(.outcome == $outcome)) | length;
def cell: (count("held")) as $held | ($held + count("open")) as $tried
  | if $tried == 0 then "–" elif $held == $tried then "\($held)/\($tried)" else "**\($held)**/\($tried)" end;
def row: "| " + join(" | ") + " |";
def named($outcome): [.card.attacks[] | select(.outcome == $outcome) | "`\(.attack)`"] | join(", ");
. as $cards | $groups[0] as $groups
| ([$groups[].attacks[]]) as $all
| ([["attacks"] + [$cards[].peer] | row, (["---"] + [$cards[] | "---:"] | row)]
  + [$groups[] | .attacks as $attacks | ["\(.group) (\($attacks | length))"] + [$cards[] | of($attacks) | cell] | row]
  + [["**all \($all | length)**"] + [$cards[] | of($all) | cell] | row]
  + [["not tried"] + [$cards[] | "\(.card.not_tried)"] | row]
  + [""]
  + [$cards[] | "- **\(.peer)** (\(.with), kernel \(.card.kernel)) leaves open: "
      + (if .card.open == 0 then "nothing" else named("open") end)
      + (if .card.not_tried == 0 then "" else ". Not tried: " + named("not-tried") end) + "."])[]

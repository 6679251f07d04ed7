<?php
// A request that takes its time: /slow.php?seconds=5. An idle stop never cuts it.
header('Content-Type: text/plain; charset=utf-8');

$seconds = max(0.0, min(60.0, (float) ($_GET['seconds'] ?? 3)));
$start = microtime(true);
while (($left = $start + $seconds - microtime(true)) > 0) {
    usleep((int) ceil($left * 1e6)); // A signal may end a sleep early.
}
printf("worked for %.1f seconds in process %d\n", $seconds, getmypid());

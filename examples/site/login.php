<?php
// A login without a password, to show that a session outlives the process:
//   POST user=ann   logs in          GET   tells who is logged in
session_start();
header('Content-Type: text/plain; charset=utf-8');

if (($_SERVER['REQUEST_METHOD'] ?? 'GET') === 'POST') {
    $user = (string) ($_POST['user'] ?? '');
    if (!preg_match('/^[a-z]{1,32}$/', $user)) {
        http_response_code(400);
        exit("user must be 1 to 32 letters a to z\n");
    }
    session_regenerate_id(true);
    $_SESSION['user'] = $user;
}

echo isset($_SESSION['user']) ? "logged in as {$_SESSION['user']}\n" : "not logged in\n";

%% A port whose worker cannot outlive the BEAM: escript erlang_port.erl COMMAND [ARGUMENT...]
%%
%% The worker, and whatever it starts, is held by pitvisor run. Its stdin is the port's
%% pipe. When the port is closed, its owner ends, or the BEAM is killed, by SIGKILL or
%% otherwise, pitvisor reads the end of the file and ends the whole run.
-module(erlang_port).
-export([main/1, open/2]).

open(Command, Args) ->
    Pitvisor = os:find_executable("pitvisor"),
    Run = ["run", "--stdin-lifeline", "--kill-after", "2s", "--", Command | Args],
    open_port({spawn_executable, Pitvisor}, [{args, Run}, exit_status, binary, {line, 4096}]).

main([Command | Args]) ->
    loop(open(Command, Args)).

loop(Port) ->
    receive
        {Port, {data, {eol, Line}}} ->
            io:put_chars([Line, $\n]),
            loop(Port);
        {Port, {data, {noeol, Part}}} ->
            io:put_chars(Part),
            loop(Port);
        {Port, {exit_status, Code}} ->
            halt(Code)
    end.

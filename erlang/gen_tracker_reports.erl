%% @private
%% What logs and tools show of a zone: the reports about its children, which are those of OTP's
%% `supervisor' in its shape, with the zone as the supervisor and the child's name as its id; and
%% the labels of its processes.
-module(gen_tracker_reports).

-export([child/3, progress/4, error/4, set_label/1]).

-include_lib("kernel/include/logger.hrl").

-type child() :: [{atom(), term()}].

%% @doc Returns the properties of a child that reports show.
-spec child(pid() | undefined, gen_tracker:name(), gen_tracker_spec:spec()) -> child().
child(Pid, Name, {MFA, Restart, Shutdown, Type, _Modules}) ->
    [{pid, Pid}, {id, Name}, {mfargs, MFA}, {restart_type, Restart}, {significant, false},
     {shutdown, Shutdown}, {child_type, Type}].

%% @doc Logs that a child was started, at level `info'.
-spec progress(gen_tracker:zone(), pid(), gen_tracker:name(), gen_tracker_spec:spec()) -> ok.
progress(Zone, Pid, Name, Spec) ->
    ?LOG_INFO(
        #{label => {supervisor, progress},
          report => [{supervisor, {local, Zone}}, {started, child(Pid, Name, Spec)}]},
        #{domain => [otp, sasl],
          report_cb => fun supervisor:format_log/2,
          logger_formatter => #{title => "PROGRESS REPORT"},
          error_logger => #{tag => info_report, type => progress,
                            report_cb => fun supervisor:format_log/1}}
    ).

%% @doc Logs a failure of a child, at level `error'.
-spec error(child_terminated | start_error | shutdown_error, Reason :: term(), gen_tracker:zone(),
            child()) -> ok.
error(Error, Reason, Zone, Child) ->
    ?LOG_ERROR(
        #{label => {supervisor, Error},
          report => [{supervisor, {local, Zone}}, {errorContext, Error}, {reason, Reason},
                     {offender, Child}]},
        #{domain => [otp, sasl],
          report_cb => fun supervisor:format_log/2,
          logger_formatter => #{title => "SUPERVISOR REPORT"},
          error_logger => #{tag => error_report, type => supervisor_report,
                            report_cb => fun supervisor:format_log/1}}
    ).

%% @doc Sets the label of the calling process, which observer shows, on OTP 27 and later.
-spec set_label(term()) -> ok.
set_label(Label) ->
    Library = proc_lib,
    case erlang:function_exported(Library, set_label, 1) of
        true -> Library:set_label(Label);
        false -> ok
    end.

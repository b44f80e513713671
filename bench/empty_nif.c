/* Native functions for comparison: one does nothing, the least that any native call costs. The
 * other one returns the processor time of the calling thread, without the time of other threads. */
#include <erl_nif.h>
#include <time.h>

static ERL_NIF_TERM empty(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)env;
    (void)argc;
    return argv[1];
}

static ERL_NIF_TERM thread_time(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    struct timespec time;

    (void)argc;
    (void)argv;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return enif_make_int64(env, (ErlNifSInt64)time.tv_sec * 1000000000 + time.tv_nsec);
}

static ErlNifFunc functions[] = {{"call", 2, empty, 0}, {"thread_time", 0, thread_time, 0}};

ERL_NIF_INIT(empty_nif, functions, NULL, NULL, NULL, NULL)

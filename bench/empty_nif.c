/* Native functions for comparison: one does nothing, the least that any native call costs. The
 * others return the processor time of the calling thread, and of all threads of the VM. */
#include <erl_nif.h>
#include <time.h>

static ERL_NIF_TERM empty(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)env;
    (void)argc;
    return argv[1];
}

static ERL_NIF_TERM nanoseconds(ErlNifEnv *env, clockid_t clock)
{
    struct timespec time;

    clock_gettime(clock, &time);
    return enif_make_int64(env, (ErlNifSInt64)time.tv_sec * 1000000000 + time.tv_nsec);
}

static ERL_NIF_TERM thread_time(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)argc;
    (void)argv;
    return nanoseconds(env, CLOCK_THREAD_CPUTIME_ID);
}

static ERL_NIF_TERM vm_time(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])
{
    (void)argc;
    (void)argv;
    return nanoseconds(env, CLOCK_PROCESS_CPUTIME_ID);
}

static ErlNifFunc functions[] = {
    {"call", 2, empty, 0}, {"thread_time", 0, thread_time, 0}, {"vm_time", 0, vm_time, 0}};

ERL_NIF_INIT(empty_nif, functions, NULL, NULL, NULL, NULL)

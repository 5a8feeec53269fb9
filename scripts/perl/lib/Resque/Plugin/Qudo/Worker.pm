package Resque::Plugin::Qudo::Worker;

# A worker of Resque that never has a job in its memory only, and that ends jobs which are over their time. For all
# jobs: they are noted as they are taken, and a job's process dies with its worker. For those of Qudo's classes: the
# time limit, TERM first and KILL after a grace, and a failure for a process that ended without a word.

use Moose::Role;

use IO::Handle;
use JSON;
use POSIX ();
use Resque::Plugin::Qudo;
use Resque::Plugin::Qudo::Script qw(take note_of settle characters);
use Resque::Plugin::Qudo::Text 'record';
use Time::HiRes ();

# prctl(PR_SET_PDEATHSIG) by the kernel's number for it; elsewhere a job may outlive a worker that is killed.
my %PRCTL = (
    x86_64  => 157, aarch64 => 167, riscv64 => 167, ppc64le => 171,
    i386    => 172, i686    => 172, armv7l  => 172, s390x   => 172,
);
my $PR_SET_PDEATHSIG = 1;

has qudo_watch => (is => 'rw');    # of the job that runs: { job, heard, limit, deadline, settled }
has qudo_pid   => (is => 'rw');    # of the worker itself, for its job's process

# --- taking -----------------------------------------------------------------------------------------------------------

around reserve => sub {
    my ($reserve, $self) = @_;
    return $self->$reserve if $self->cant_poll;    # a blocking pop can't note what it takes
    while (my ($queue, $text) = take($self, @{ $self->queues })) {
        my $job = eval { $self->resque->new_job({ payload => $text, queue => $queue }) };
        if ($job) {
            $job->qudo_noted(1);
            return $job;
        }
        $self->_refuse($queue, $text);
    }
    return;
};

# A text that is no job would end worker after worker: it becomes a failure.
sub _refuse {
    my ($self, $queue, $text) = @_;
    my %values = (
        failed_at => POSIX::strftime('%Y/%m/%d %H:%M:%S UTC', gmtime),
        exception => 'NotAJob',
        error     => 'no JSON object with a class and a list of args',
        backtrace => undef,
        worker    => characters($self->id),
        queue     => characters($queue),
    );
    my $stand_in = JSON->new->utf8->canonical->encode({ class => '', args => [ characters($text) ] });
    settle($self, note_of($self), record(\%values, $stand_in), undef);
    $self->processed(1);
    $self->failed(1);
    return;
}

around working_on => sub {
    my ($working_on, $self, $job) = @_;
    return $job->worker($self) if $job->qudo_noted;    # the note is there, with the queue's own text
    return $self->$working_on($job);
};

# --- the dead ---------------------------------------------------------------------------------------------------------

# Resque asks `ps` who lives. One that was killed or failed shows nobody: then all would be taken for dead (seen), their
# jobs tried again beside themselves.
around worker_pids => sub {
    my ($worker_pids, $self) = @_;
    my @pids = $self->$worker_pids;
    die "ps doesn't show this process\n" if !grep { $_ == $$ } @pids;
    return wantarray ? @pids : \@pids;
};

around prune_dead_workers => sub {
    my ($prune, $self) = @_;
    eval { $self->$prune; 1 } or warn "resque: dead workers are left to the next look: $@";
};

# --- the job's process ------------------------------------------------------------------------------------------------

before perform => sub {
    my ($self) = @_;
    return if $self->cant_fork;
    my $parent = getppid;
    if (my $number = $PRCTL{ (POSIX::uname())[4] }) {
        syscall $number, $PR_SET_PDEATHSIG, 9, 0, 0, 0;
    }
    POSIX::_exit(1) if $self->qudo_pid && $parent != $self->qudo_pid;    # it has died just now
    setpgrp;    # a kill reaches what the job has started
    $SIG{ALRM} = 'DEFAULT';
};

# --- watching it ------------------------------------------------------------------------------------------------------

around work_tick => sub {
    my ($work_tick, $self, $job) = @_;
    return $self->$work_tick($job) if $self->cant_fork;
    pipe my $heard, my $to or die "pipe: $!\n";
    $heard->blocking(0);
    $to->autoflush(1);
    $job->qudo_say(sub { print {$to} "$_[0]\n" });
    $self->qudo_pid($$);
    $self->qudo_watch({ job => $job, heard => $heard });
    # waitpid goes on after a signal's handler has run.
    local $SIG{ALRM} = sub { $self->_look };
    my $every = Resque::Plugin::Qudo->option('poll_seconds');
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), $every, $every);
    my $lived = eval { $self->$work_tick($job); 1 };
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0);
    $self->qudo_watch(undef);
    die $@ if !$lived;
    return;
};

# What the job's process has said since.
sub _hear {
    my ($self) = @_;
    my $watch = $self->qudo_watch or return {};
    my $heard = $watch->{heard};
    while (defined(my $line = <$heard>)) {
        if ($line =~ /\Alimit (-?[0-9]+)/) {
            $watch->{limit}    = $1;
            $watch->{deadline} = Time::HiRes::time() + $1 if $1 > 0;
        }
        $watch->{settled} = 1 if $line eq "settled\n";
    }
    $heard->clearerr;    # nothing there is no end
    return $watch;
}

sub _look {
    my ($self) = @_;
    my $watch = $self->_hear;
    return if $watch->{settled} || !$watch->{deadline} || Time::HiRes::time() < $watch->{deadline};
    if ($watch->{job}->qudo_killed) {
        $self->_signal('KILL');
        return;
    }
    $watch->{job}->qudo_killed("took longer than $watch->{limit} s (grab_for)");
    $watch->{deadline} = Time::HiRes::time() + Resque::Plugin::Qudo->option('grace');
    $self->_signal('TERM');
    return;
}

# To the job's process and all that it has started; in its first moments it has no group of its own yet.
sub _signal {
    my ($self, $name) = @_;
    my $child = $self->child or return;
    kill("-$name", $child) or kill($name, $child);
    return;
}

before kill_child => sub { $_[0]->_signal('KILL') };

# A process that ended well without having settled its job (the app has called `exit`) has not done it.
before done_working => sub {
    my ($self) = @_;
    Time::HiRes::setitimer(Time::HiRes::ITIMER_REAL(), 0) if $self->qudo_watch;
    my $watch = $self->_hear;
    return if !defined $watch->{limit} || $watch->{settled} || $?;
    $watch->{job}->fail('the process has ended without a word');
    $self->failed(1);
};

1;

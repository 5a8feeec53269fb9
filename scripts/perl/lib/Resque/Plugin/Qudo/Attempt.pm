package Resque::Plugin::Qudo::Attempt;

# One attempt at one job, with the methods of Qudo::Job: what `work($class, $job)` gets. Writes nothing itself but what
# `manager->enqueue` pushes; what is to become of the job stands in `verdict` when `work` has returned.

use strict;
use warnings;

use JSON;
use Resque::Plugin::Qudo;

my $JSON = JSON->new->utf8->canonical->allow_nonref;

# resque: where jobs that this one enqueues go. retries: failures so far, those in Qudo too. grab_for: seconds.
# max_retries: of the class if it says so (has_own_limit), else of the payload.
sub new {
    my ($class, %fields) = @_;
    my $self = bless { started => time, %fields }, $class;
    my $args = $self->{payload}{args} || [];
    $self->{arg_origin} = $JSON->encode($args);
    $self->{arg}        = _in_bytes(_arg($self->funcname, $args), _bytes($self->funcname));
    return $self;
}

# One argument is Qudo's `arg`, unless the route spreads arrays; several can only be a spread one.
sub _arg {
    my ($name, $args) = @_;
    my $spread = Resque::Plugin::Qudo->option('spread');
    my $is_spread = grep { Resque::Plugin::Qudo->matches($_, $name) } @$spread;
    return $is_spread || @$args != 1 ? $args : $args->[0];
}

sub _bytes {
    my ($name) = @_;
    my $wanted = Resque::Plugin::Qudo->option('bytes');
    for my $glob (sort keys %$wanted) {
        return $wanted->{$glob} if Resque::Plugin::Qudo->matches($glob, $name);
    }
    return '';
}

# Strings as the bytes that Qudo's worker had; numbers and JSON's own objects stay.
sub _in_bytes {
    my ($value, $how) = @_;
    return $value if !$how || !defined $value;
    return [ map { _in_bytes($_, $how) } @$value ] if ref $value eq 'ARRAY';
    return { map { _in_bytes($_, $how) => _in_bytes($value->{$_}, $how) } keys %$value } if ref $value eq 'HASH';
    return $value if ref $value || !utf8::is_utf8($value);
    if ($how eq 'latin1' && utf8::downgrade($value, 1)) {
        return $value if !utf8::decode(my $text = $value);    # bytes that are UTF-8 had become their characters
        utf8::upgrade($value);
    }
    utf8::encode($value);
    return $value;
}

sub _qudo {
    my ($self, $name) = @_;
    my $ours = $self->{payload}{qudo};
    return ref $ours eq 'HASH' ? $ours->{$name} : undef;
}

sub id             { return $_[0]->_qudo('id') }              # undef for a job that never was in Qudo's table
sub db             { return $_[0]->_qudo('source') }
sub uniqkey        { return $_[0]->_qudo('uniqkey') }
sub priority       { return $_[0]->_qudo('priority') || 0 }
sub func_id        { return 0 }                               # there are no ids of funcs in Resque
sub funcname       { return $_[0]{payload}{class} }
sub retry_cnt      { return $_[0]{retries} }
sub grabbed_until  { return $_[0]{started} + $_[0]{grab_for} }
sub manager        { return bless { resque => $_[0]{resque} }, 'Resque::Plugin::Qudo::Manager' }
sub arg            : lvalue { $_[0]{arg} }
sub arg_origin     : lvalue { $_[0]{arg_origin} }
sub job_start_time : lvalue { $_[0]{job_start_time} }

sub completed    { $_[0]{completed} = 1; return }
sub is_completed { return $_[0]{completed} }
sub is_aborted   { return $_[0]{aborted} }
sub is_failed    { return $_[0]{failed} }
sub error        { return $_[0]{error} }

sub abort {
    my ($self, $error) = @_;
    @$self{qw(aborted error)} = (1, $error || 'abort!!');
    return;
}

sub failed {
    my ($self, $error) = @_;
    @$self{qw(failed error)} = (1, $error);
    return;
}

sub reenqueue {
    my ($self, $wanted) = @_;
    $self->{delay} = $wanted->{retry_delay} || 0;
    return;
}

sub dequeue { delete $_[0]{delay}; return }

# New jobs in this one's place: pushed in the very step that ends this one.
sub replace {
    my ($self, @jobs) = @_;
    push @{ $self->{pushes} }, map { $self->manager->prepared(@$_) } @jobs;
    $self->completed;
    return;
}

# What is to become of the job: { } when it is done, { error } for a final failure, { error, delay } for another try in
# so many seconds. A failure that `max_retries` says nothing about is judged by the payload's `max_retry`.
sub verdict {
    my ($self) = @_;
    my $pushes = $self->{pushes} || [];
    return { error => $self->{error} } if $self->{aborted};
    return { pushes => $pushes } if $self->{completed} && !$self->{failed};
    my $error = defined $self->{error} ? $self->{error} : 'Job did not explicitly complete or fail';
    return { error => $error, delay => $self->{delay} } if defined $self->{delay};
    return { error => $error } if $self->{has_own_limit} || $self->{retries} >= $self->{max_retries};
    return { error => $error, delay => $self->{class}->retry_delay($self) || 0 };
}

package Resque::Plugin::Qudo::Manager;

use Resque::Plugin::Qudo::Script 'push_job';

# As much of Qudo::Manager as a worker class may ask of its job's.

sub plugin { return {} }

# As Qudo's: arg, run_after (seconds from now). Returns nothing: there is no row to look at.
sub enqueue {
    my ($self, $name, $job) = @_;
    push_job($self->{resque}, $self->prepared($name, $job));
    return;
}

# As `settle` pushes it. Dies for a uniqkey: nothing here could keep its promise.
sub prepared {
    my ($self, $name, $job) = @_;
    die "a job with a uniqkey can't be enqueued from here: enqueue $name through Qudo or qudo-migrate's Enqueuer\n"
        if defined $job->{uniqkey};
    my $queue = Resque::Plugin::Qudo->option('queue_of')->{$name};
    ($queue = lc $name) =~ s/::/_/g if !defined $queue;
    my ($class, $args, $where) = map { $JSON->encode($_) } $name, [ $job->{arg} ], $queue;
    my $core = qq("class":$class,"args":$args);
    return [ $queue, "{$core}", qq({$core,"queue":$where}), $job->{run_after} || 0 ];
}

1;
